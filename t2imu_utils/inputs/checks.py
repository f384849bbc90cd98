"""Whether an input is there and right, told from names, sizes and headers alone.

Nothing is unpickled and no large file is read through: a check of everything takes seconds.
"""

import csv
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2imu_utils.body.smpl_files import find_models
from t2imu_utils.inputs.headers import (
    Broken,
    check_pickle,
    check_safetensors,
    check_torch_file,
    load_json,
    member_shape,
    npy_shape,
    open_zip,
)
from t2imu_utils.inputs.registry import Input

State = Literal["present", "missing", "incomplete", "wrong"]
SPLITS = ("train", "val", "test")
FEATURES, JOINTS = 263, 22
VERTICES = 6890  # of SMPL and SMPL+H
POSE = 156  # numbers of a pose of SMPL+H: 52 joints; SMPL-X has 165
SMPLH_SHAPES = 16  # shape components of the extended model; the plain one has 10
# What damaged content may raise: of archives, of text and JSON, of fields of another type.
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a check found: the state, and why, in words that need no other file to be understood."""

    state: State
    why: str


def examine(entry: Input, root: Path) -> Found:
    """Check one input below the data folder `root`."""
    folder = Path(root) / entry.path
    try:
        return CHECKS[entry.check](folder, entry.facts)
    except Broken as error:
        return Found("wrong", str(error))
    except UNREADABLE as error:
        return Found("wrong", f"unreadable: {error}")


def names_below(folder: Path) -> list[str]:
    """Names of the files below a folder, and of the members of the zips that lie in it."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    for path in sorted(folder.glob("*.zip")):
        with open_zip(path) as archive:
            names += [f"{path.name}/{name}" for name in archive.namelist()]
    return names


def check_members(folder: Path, facts: dict[str, Any]) -> Found:
    """Count the different keys (first group of each pattern) among the names of all files."""
    names = names_below(folder) if folder.is_dir() else []
    counted, short = [], False
    for wanted in facts["members"]:
        keys = {match[1] for name in names if (match := re.search(wanted["pattern"], name))}
        if wanted.get("packed") and any(re.search(wanted["packed"], name) for name in names):
            counted.append(f"{wanted['what']} in an archive within the archive")
            continue
        whole = wanted.get("whole")
        counted.append(f"{len(keys)}{f' of {whole}' if whole else ''} {wanted['what']}")
        short |= len(keys) < wanted["least"]
    if all(text.startswith("0 ") for text in counted):
        return Found("missing", f"no {', no '.join(w['what'] for w in facts['members'])}")
    return Found("incomplete" if short else "present", ", ".join(counted))


def check_humanml3d_texts(folder: Path, facts: dict[str, Any]) -> Found:
    """Split lists, index, statistics, and a caption file for every clip of the splits."""
    wanted = [*(f"{split}.txt" for split in (*SPLITS, "all")), "index.csv", "Mean.npy", "Std.npy"]
    lacking = [name for name in wanted if not (folder / name).is_file()]
    texts = _stems(folder / "texts", ".txt")
    if not texts:
        lacking.append("texts/")
    if len(lacking) == len(wanted) + 1:
        return Found("missing", "none of its files is there")
    for name in {"Mean.npy", "Std.npy"} - set(lacking):
        _check_statistic(folder / name)
    if "index.csv" not in lacking:
        _check_index(folder / "index.csv", facts["rows"])
    if lacking:
        return Found("incomplete", f"lacks {', '.join(lacking)}")
    clips = _clips(folder)
    if len(clips) != facts["clips"]:
        return Found("incomplete", f"{len(clips):,} of {facts['clips']:,} clips in the split lists")
    untold = len(clips - texts)
    if untold:
        return Found("incomplete", f"no captions for {untold:,} of {len(clips):,} clips")
    return Found("present", f"captions for {len(clips):,} clips")


def _check_statistic(path: Path) -> None:
    shape = npy_shape(path)
    if shape != (FEATURES,):
        raise Broken(f"{path.name} has shape {shape}, not ({FEATURES},)")


def _check_index(path: Path, rows: int) -> None:
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        found = len(list(reader))
        lacking = {"source_path", "start_frame", "end_frame", "new_name"} - set(
            reader.fieldnames or ()
        )
    if lacking:
        raise Broken(f"index.csv has no column {', '.join(sorted(lacking))}")
    if found != rows:
        raise Broken(f"index.csv has {found:,} rows, not {rows:,}")


def check_humanml3d(folder: Path, facts: dict[str, Any]) -> Found:
    """A feature file for every clip of the splits, and the shapes of three of them."""
    features = _stems(folder / "new_joint_vecs", ".npy")
    if not features:
        return Found("missing", "no file in new_joint_vecs/")
    ordered = sorted(features)
    for name in {ordered[0], ordered[len(ordered) // 2], ordered[-1]}:
        shape = npy_shape(folder / "new_joint_vecs" / f"{name}.npy")
        if len(shape) != 2 or shape[1] != FEATURES or shape[0] < 1:
            raise Broken(f"new_joint_vecs/{name}.npy has shape {shape}, not (frames, {FEATURES})")
        joints = folder / "new_joints" / f"{name}.npy"
        if joints.exists() and npy_shape(joints)[1:] != (JOINTS, 3):
            raise Broken(
                f"new_joints/{name}.npy has shape {npy_shape(joints)}, not (frames, 22, 3)"
            )
    clips = _clips(folder)
    lacking = len(clips - features) if clips else max(facts["clips"] - len(features), 0)
    if lacking:
        return Found("incomplete", f"no features for {lacking:,} of {facts['clips']:,} clips")
    return Found("present", f"features of {len(features):,} clips")


def _clips(folder: Path) -> set[str]:
    """Names in the split lists that are there."""
    lists = [folder / f"{split}.txt" for split in SPLITS]
    return {
        name for path in lists if path.is_file() for name in path.read_text("utf-8").split() if name
    }


def _stems(folder: Path, suffix: str) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.stem for path in folder.iterdir() if path.suffix == suffix}


def check_amass(folder: Path, facts: dict[str, Any]) -> Found:
    """SMPL+H files in each subset's folder, under either of its names; the shape of one file."""
    lacking, first = [], None
    for names in facts["subsets"]:
        places = [folder / name for name in names]
        one = next((path for place in places for path in place.rglob("*_poses.npz")), None)
        if one is None and any(path for place in places for path in place.rglob("*_stageii.npz")):
            raise Broken(f"{names[0]} has files *_stageii.npz, the SMPL-X release: get SMPL+H G")
        if one is None:
            lacking.append(" or ".join(names))
        first = first or one
    if first is None:
        return Found("missing", f"none of the {len(lacking)} subsets is there")
    with open_zip(first) as archive:
        shape = member_shape(archive, "poses")
    if len(shape) != 2 or shape[1] != POSE:
        raise Broken(f"{first.name}: poses have shape {shape}, not (frames, {POSE}) of SMPL+H G")
    if lacking:
        return Found("incomplete", f"lacks {', '.join(lacking)}")
    return Found("present", f"all {len(facts['subsets'])} subsets")


def check_smplh(folder: Path, facts: dict[str, Any]) -> Found:
    """``male/model.npz`` and ``female/model.npz`` with the shapes of the extended model."""
    lacking = [g for g in ("male", "female") if not (folder / g / "model.npz").is_file()]
    if len(lacking) == 2:
        return Found("missing", "neither male/model.npz nor female/model.npz")
    for gender in {"male", "female"} - set(lacking):
        with open_zip(folder / gender / "model.npz") as archive:
            shapes = [member_shape(archive, key) for key in ("v_template", "shapedirs")]
        if shapes[0] != (VERTICES, 3):
            raise Broken(f"{gender}/model.npz: v_template has shape {shapes[0]}, not (6890, 3)")
        if shapes[1][-1] < SMPLH_SHAPES:
            raise Broken(
                f"{gender}/model.npz has {shapes[1][-1]} shape components, not {SMPLH_SHAPES}: "
                "this is not the extended model for AMASS"
            )
    if lacking:
        return Found("incomplete", f"lacks {lacking[0]}/model.npz")
    return Found("present", "male and female")


def check_humanact12(folder: Path, facts: dict[str, Any]) -> Found:
    """Arrays of 24 joints."""
    names = sorted(_stems(folder / "humanact12" / "humanact12", ".npy"))
    if not names:
        return Found("missing", "no file in humanact12/humanact12/")
    shape = npy_shape(folder / "humanact12" / "humanact12" / f"{names[0]}.npy")
    if shape[1:] != (24, 3):
        raise Broken(f"{names[0]}.npy has shape {shape}, not (frames, 24, 3)")
    return Found("present", f"{len(names):,} clips")


def check_smpl(folder: Path, facts: dict[str, Any]) -> Found:
    """A file of each gender under one of its names, with the head and end of its format."""
    files = find_models(folder)
    if not files:
        packed = ", ".join(sorted(p.name for p in folder.glob("*.zip"))) if folder.is_dir() else ""
        return Found("missing", f"{packed} is still packed" if packed else "no model file")
    for path in files.values():
        if path.suffix.lower() == ".pkl":
            check_pickle(path)
            continue
        with open_zip(path) as archive:
            shape = member_shape(archive, "v_template")
        if shape != (VERTICES, 3):
            raise Broken(f"{path.name}: v_template has shape {shape}, not ({VERTICES}, 3)")
    lacking = [g for g in ("male", "female", "neutral") if g not in files]
    if lacking:
        return Found("incomplete", f"lacks the {' and the '.join(lacking)} model")
    return Found("present", ", ".join(files[g].name for g in ("male", "female", "neutral")))


def check_mdm(folder: Path, facts: dict[str, Any]) -> Found:
    """``args.json`` of the right model beside at least one whole ``model*.pt``."""
    models = sorted(folder.glob("model*.pt"))
    settings = folder / "args.json"
    if not models and not settings.exists():
        return Found("missing", "no args.json and no model*.pt")
    if not models or not settings.exists():
        return Found("incomplete", f"lacks {'args.json' if models else 'model*.pt'}")
    args = {"text_encoder_type": "clip", **load_json(settings)}
    for key, wanted in facts.items():
        if args.get(key) != wanted:
            raise Broken(f"args.json says {key} = {args.get(key)!r}, not {wanted!r}: another model")
    for path in models:
        check_torch_file(path)
    for name in ("Mean.npy", "Std.npy"):  # optional: HumanML3D's own are taken otherwise
        if (folder / name).is_file():
            _check_statistic(folder / name)
    return Found("present", ", ".join(path.name for path in models))


def check_files(folder: Path, facts: dict[str, Any]) -> Found:
    """PyTorch files, statistics of the features, and archives of arrays, all of them whole."""
    torch, statistics = facts.get("torch", []), facts.get("statistics", [])
    arrays = facts.get("arrays", {})
    wanted = [*torch, *statistics, *arrays]
    lacking = [name for name in wanted if not (folder / name).is_file()]
    if len(lacking) == len(wanted):
        return Found("missing", "none of its files is there")
    there = [name for name in wanted if name not in lacking]
    for name in there:
        if name in torch:
            check_torch_file(folder / name)
        elif name in statistics:
            _check_statistic(folder / name)
        else:
            with open_zip(folder / name) as archive:
                for key in arrays[name]:
                    member_shape(archive, key)
    if lacking:
        return Found("incomplete", f"lacks {', '.join(lacking)}")
    return Found("present", f"all {len(wanted)} files")


def check_text_encoder(folder: Path, facts: dict[str, Any]) -> Found:
    """A transformers folder: configuration, whole weights, tokenizer."""
    weights = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    weights = [path for path in weights if path.is_file()]
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if weights else ["model.safetensors"]
    sets = facts["tokenizer"]
    if not any(all((folder / name).is_file() for name in names) for names in sets):
        lacking.append(" or ".join(" and ".join(names) for names in sets))
    if len(lacking) == 3:
        return Found("missing", "none of its files is there")
    if "config.json" not in lacking:
        kind = load_json(folder / "config.json").get("model_type")
        if kind not in facts["model_type"]:
            wanted = " or ".join(facts["model_type"])
            raise Broken(f"config.json says model_type = {kind!r}, not {wanted}")
    for path in weights:
        (check_safetensors if path.suffix == ".safetensors" else check_torch_file)(path)
    if lacking:
        return Found("incomplete", f"lacks {'; '.join(lacking)}")
    return Found("present", weights[0].name)


def check_cmu_descriptions(folder: Path, facts: dict[str, Any]) -> Found:
    """A table with the columns trial and description."""
    path = folder / "descriptions.csv"
    if not path.is_file():
        return Found("missing", "no descriptions.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = len(list(reader))
    if not {"trial", "description"} <= set(reader.fieldnames or ()) or not rows:
        raise Broken("descriptions.csv has no rows under the columns trial and description")
    return Found("present", f"descriptions of {rows:,} trials")


def check_kitml_sentences(folder: Path, facts: dict[str, Any]) -> Found:
    """A list of sentences with their trial and times."""
    path = folder / "kitml_sentences.json"
    if not path.is_file():
        return Found("missing", "no kitml_sentences.json")
    rows = load_json(path)
    wanted = {"trial", "start_s", "end_s", "text"}
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and wanted <= set(r) for r in rows
    ):
        raise Broken("kitml_sentences.json is no list of {trial, start_s, end_s, text}")
    return Found("present", f"{len(rows):,} sentences")


CHECKS: dict[str, Callable[[Path, dict[str, Any]], Found]] = {
    "amass": check_amass,
    "cmu_descriptions": check_cmu_descriptions,
    "files": check_files,
    "humanact12": check_humanact12,
    "humanml3d": check_humanml3d,
    "humanml3d_texts": check_humanml3d_texts,
    "kitml_sentences": check_kitml_sentences,
    "mdm": check_mdm,
    "members": check_members,
    "smpl": check_smpl,
    "smplh": check_smplh,
    "text_encoder": check_text_encoder,
}
