"""Checkpoints in the layout of official MDM: ``args.json`` beside ``model<step>.pt``.

Fields of ``args.json`` and the keys of the weights are those of GuyTevet/motion-diffusion-model
(``utils/parser_util.py``, ``utils/model_util.py``, ``model/mdm.py``), in its first release as well
as in the later ones with DistilBERT, averaged weights and masked frames.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.motion.features import (
    CONTACTS,
    POSITIONS,
    ROOT_HEIGHT,
    ROOT_ROTATION,
    ROOT_VELOCITY,
    ROTATIONS,
    VELOCITIES,
    WIDTH,
    Normaliser,
)
from t2imu_utils.motion.humanml3d import found_statistics
from t2imu_utils.priors.checkpoints import Prior, condition_width
from t2imu_utils.priors.mdm import MDMConfig, new_mdm, sinusoids
from t2imu_utils.priors.prior_files import check_parameters, read_checkpoint, read_statistics
from t2imu_utils.priors.text import TextEncoder, load_text_encoder
from t2imu_utils.tracks import data_root

ARGS = "args.json"
# (arch, text_encoder_type) -> our encoder: what MDM here is conditioned on.
ENCODERS = {("trans_dec", "bert"): "distilbert", ("trans_enc", "clip"): "clip_mdm"}
REQUIRED = (
    "arch", "dataset", "layers", "latent_dim", "cond_mask_prob", "noise_schedule",
    "diffusion_steps",
)  # fmt: skip
# Fields of which one value is built here; older files lack those that came later.
FIXED = {
    "dataset": "humanml",
    "noise_schedule": "cosine",
    "sigma_small": True,
    "emb_trans_dec": False,
    "unconstrained": False,
    "context_len": 0,
    "pred_len": 0,
    "emb_policy": "add",
    "emb_before_mask": False,
    "keyframe_cond_type": "",
    "multi_target_cond": False,
    "lambda_target_loc": 0.0,
}
# What the official code builds without asking ``args.json``. Priors of other sizes are written with
# these fields, which are read here and nowhere else.
BUILT_IN = {"ff_size": 1024, "num_heads": 4, "dropout": 0.1, "max_frames": 196}
POSITION_TABLES = ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe")
TABLE_LENGTH = 5000
STATISTICS = (("Mean.npy", "Std.npy"), ("mean.npy", "std.npy"))
# Std.npy of HumanML3D: half-angle a frame, m a frame, m, share of frames; m, -, m a frame.
SCALED = (
    (ROOT_ROTATION, 0.0129), (ROOT_VELOCITY, 0.0169), (ROOT_HEIGHT, 0.153), (CONTACTS, 0.352)
)  # fmt: skip
OTHERS = ((POSITIONS, 0.123), (ROTATIONS, 0.300), (VELOCITIES, 0.0195))
SCALES = {
    1: "HumanML3D's own",
    5: "divided by HumanML3D's feature bias, once",
    25: "the evaluators', divided by the feature bias twice",
}


def read_mdm(
    source: Path,
    normaliser: Normaliser | None = None,
    encoder: TextEncoder | None = None,
    cache: Path | None = None,
) -> Prior:
    """Read a prior from an official checkpoint, in evaluation mode on the CPU.

    source: ``model<step>.pt``, or its folder, of which the highest step is read. Averaged weights
    (`model_avg`) are preferred to the last ones (`model`); the oldest files hold nothing else than
    the weights. The weights of the text encoder and the tables of sinusoids are passed over. The
    entry of `history` says what was read: ``folder``, ``file``, ``sha256``, ``step``, ``weights``,
    ``statistics``, ``cond_mask_prob``.

    Args:
        normaliser: the statistics that the weights were trained with. None looks for ``Mean.npy``
            and ``Std.npy`` beside the weights, then in ``humanml3d``: official MDM is trained with
            those of the dataset. They are never computed from data.
        encoder: must be the one that the checkpoint names (bert: `distilbert`, clip: `clip_mdm`);
            None loads it, with its states kept in `cache`.

    Raises:
        InputError: no checkpoint, a damaged or unsafe file, a network that is not built here, no
            statistics, another text encoder, or parameters that do not match (all are listed).
    """
    path = _weights_file(Path(source))
    args = _read_args(path.with_name(ARGS))
    named = ENCODERS[args["arch"], args["text_encoder_type"]]
    if encoder is None:
        encoder = load_text_encoder(named, cache)
    if encoder.name != named:
        raise InputError(
            f"{path.with_name(ARGS)}: text_encoder_type", f"the encoder {encoder.name}",
            f"{named}, which the weights were trained with",
            "Pass that encoder; another one's states mean nothing to these weights.",
        )  # fmt: skip
    config = _config(args, condition_width(args["arch"], encoder))
    statistics = "argument"
    if normaliser is None:
        normaliser, statistics = _find_statistics(path.parent)
    tensors, weights = _read_weights(path)
    model = new_mdm(config, seed=0)
    wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    remedy = f"Check that {ARGS} belongs to these weights, and that they are whole."
    check_parameters(path, tensors, wanted, f"those of {config}", remedy)
    model.load_state_dict(tensors)
    step = re.fullmatch(r"model(\d+)\.pt", path.name)
    origin = {
        "folder": path.resolve().parent.name,
        "file": path.name,
        "sha256": sha256(path),
        "step": int(step[1]) if step else None,
        "weights": weights,
        "statistics": statistics,
        "cond_mask_prob": float(args["cond_mask_prob"]),
    }
    return Prior(model.eval(), normaliser, encoder, [origin])


def write_mdm(folder: Path, prior: Prior, step: int) -> Path:
    """Write a prior as ``model<step>.pt`` with ``args.json``, ``Mean.npy`` and ``Std.npy``.

    `model` and `model_avg` are the same weights. Official code loads a prior of its own heads,
    feed-forward width and text width; `BUILT_IN` tells how others are written.

    Returns:
        The file with the weights.

    Raises:
        InputError: a text encoder that official MDM does not have, or a folder that holds another
            checkpoint.
    """
    config, encoder = prior.config, prior.text_encoder.name
    kinds = {(arch, name): kind for (arch, kind), name in ENCODERS.items()}
    if (config.arch, encoder) not in kinds or not 0 <= step < 10**9:
        raise InputError(
            "write_mdm", f"{config.arch} conditioned on {encoder}, step {step}",
            "; ".join(f"{arch} on {name}" for arch, name in kinds) + "; a step of 0 to 999999999",
            "Train with that encoder: official MDM has no other.",
        )  # fmt: skip
    own = {
        "ff_size": config.feedforward,
        "num_heads": config.heads,
        "dropout": config.dropout,
        "max_frames": config.max_frames,
    }
    args = {
        **FIXED,
        "data_dir": "",
        "arch": config.arch,
        "text_encoder_type": kinds[config.arch, encoder],
        "layers": config.layers,
        "latent_dim": config.width,
        "diffusion_steps": config.diffusion_steps,
        "cond_mask_prob": _condition_dropout(prior),
        "mask_frames": config.mask_frames,
        "pos_embed_max_len": TABLE_LENGTH,
        "use_ema": True,
        "lambda_rcxyz": 0.0,
        "lambda_vel": 0.0,
        "lambda_fc": 0.0,
        "multi_encoder_type": "single",
        "target_enc_layers": 1,
        **{name: value for name, value in own.items() if value != BUILT_IN[name]},
    }
    state = {
        key: x.detach().float().cpu().contiguous() for key, x in prior.model.state_dict().items()
    }
    # The official loader deletes the tables from what it reads, so they have to be there.
    state |= dict.fromkeys(POSITION_TABLES, sinusoids(TABLE_LENGTH, config.width)[:, None])
    folder = Path(folder)
    _write_beside(folder / ARGS, json.dumps(args, indent=4, sort_keys=True).encode())
    for name, values in zip(
        STATISTICS[0], (prior.normaliser.mean, prior.normaliser.std), strict=True
    ):
        _write_beside(folder / name, _npy(np.asarray(values, dtype=np.float32)))
    path = folder / f"model{step:09d}.pt"
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        torch.save({"model": state, "model_avg": state}, stream)
    return path


def feature_scale(normaliser: Normaliser) -> int:
    """By what the spread of root and contact channels was divided: 1, 5 or 25 (see `SCALES`).

    Official MDM is trained with HumanML3D's ``Std.npy`` (1); the evaluators of HumanML3D and models
    trained by its code divide these channels twice by 5. The spread of both kinds of channels is
    compared with that of HumanML3D; a corpus would have to be stranger than by a factor 2 to be
    taken for another scale.
    """

    def below(groups: tuple[tuple[slice, float], ...]) -> float:
        found = [max(float(np.mean(normaliser.std[group])), 1e-9) for group, _ in groups]
        return float(np.mean(np.log([typical for _, typical in groups]) - np.log(found)))

    scale = np.exp(below(SCALED) - below(OTHERS))
    nearest = min(SCALES, key=lambda known: abs(np.log(scale / known)))
    if abs(np.log(scale / nearest)) > np.log(5) / 2:
        raise InputError(
            "normaliser: std of channels 0:4 and 259:263",
            f"{scale:.3g} times smaller than the others, against HumanML3D",
            f"about {', '.join(map(str, SCALES))}",
            "Use the statistics that belong to the weights.",
        )
    return nearest


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    found = {
        int(match[1]): path
        for path in (source.iterdir() if source.is_dir() else ())
        if (match := re.fullmatch(r"model(\d+)\.pt", path.name))
    }
    if not found:
        raise InputError(
            source, "no model<step>.pt" if source.is_dir() else "nothing",
            f"an official MDM checkpoint: model<step>.pt with its {ARGS}",
            "Unpack the published archive there; `t2imu data status` says where to get it.",
        )  # fmt: skip
    return found[max(found)]


def _read_args(path: Path) -> dict[str, Any]:
    remedy = f"Restore the {ARGS} that was published with the weights."
    try:
        args = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(path, "no file", "settings of the network", remedy) from error
    except ValueError as error:
        raise InputError(path, f"no valid JSON ({error})", "settings", remedy) from error
    missing = set(REQUIRED) - set(args) if isinstance(args, dict) else REQUIRED
    if missing:
        raise InputError(path, f"no {', '.join(sorted(missing))}", "these fields", remedy)
    args = {"text_encoder_type": "clip", "mask_frames": False, **BUILT_IN, **args}
    problems = []
    arch, kind = args["arch"], args["text_encoder_type"]
    if (arch, kind) not in list(ENCODERS):
        known = " or ".join(f"arch {a!r} with {k!r}" for a, k in ENCODERS)
        problems.append(f"arch {arch!r} with text_encoder_type {kind!r}, not {known}")
    for name, built in FIXED.items():
        absent = args.get(name) is None and name not in REQUIRED
        if not absent and args[name] != built:
            problems.append(f"{name} {args[name]!r}, not {built!r}")
    if args.get("cond_mode") == "no_cond":
        problems.append("cond_mode 'no_cond', not 'text'")
    for name in ("layers", "latent_dim", "diffusion_steps", "ff_size", "num_heads", "max_frames"):
        if type(args[name]) is not int or args[name] < 1:
            problems.append(f"{name} {args[name]!r}, not a whole number from 1")
    for name in ("cond_mask_prob", "dropout"):
        if type(args[name]) not in (int, float) or not 0 <= args[name] < 1:
            problems.append(f"{name} {args[name]!r}, not a number of 0 to 1")
    if type(args["mask_frames"]) is not bool:
        problems.append(f"mask_frames {args['mask_frames']!r}, not true or false")
    if problems:
        raise InputError(
            path, "; ".join(problems), "an MDM as this project builds it",
            "Take humanml_trans_dec_512_bert-50steps or humanml-encoder-512-50steps.",
        )  # fmt: skip
    return args


def _config(args: dict[str, Any], text_width: int) -> MDMConfig:
    return MDMConfig(
        arch=args["arch"],
        layers=args["layers"],
        width=args["latent_dim"],
        heads=args["num_heads"],
        feedforward=args["ff_size"],
        dropout=float(args["dropout"]),
        text_width=text_width,
        mask_frames=args["mask_frames"],
        channels=WIDTH,
        max_frames=args["max_frames"],
        diffusion_steps=args["diffusion_steps"],
    )


def _read_weights(path: Path) -> tuple[dict[str, Any], str]:
    """The parameters by name, and under which name they stood in the file."""
    again = "Download it again and compare its size with the published one."
    content = read_checkpoint(path, again)
    weights = next((x for x in ("model_avg", "model") if _is_dict(content, x)), "state dict")
    state = content if weights == "state dict" else content[weights]
    if not isinstance(state, dict):
        raise InputError(
            path, f"a {type(state).__name__}", "parameters by name, or model_avg or model",
            "Take the file that official MDM wrote, model<step>.pt.",
        )  # fmt: skip
    names = {key: str(key).removeprefix("module.") for key in state}
    kept = {
        names[key]: x
        for key, x in state.items()
        if not names[key].startswith("clip_model.") and not names[key].endswith(".pe")
    }
    return kept, weights


def _is_dict(content: Any, name: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(name), dict)


def _find_statistics(folder: Path) -> tuple[Normaliser, str]:
    dataset = data_root() / "humanml3d"
    for place, names in (*((folder, names) for names in STATISTICS), (dataset, STATISTICS[0])):
        if any((place / name).is_file() for name in names):
            where = "humanml3d" if place == dataset else "beside the weights"
            if place == dataset and len(found_statistics(dataset)) < len(names):
                raise InputError(
                    dataset, "not both of Mean.npy and Std.npy, or some computed with the build",
                    "the published ones, which the weights were trained with",
                    "Move these two away and run `t2imu data fetch humanml3d_texts`.",
                )  # fmt: skip
            remedy = "Restore it from where the weights came."
            return read_statistics(place, remedy, names), where
    raise InputError(
        folder, "no Mean.npy and Std.npy", "the statistics that the weights were trained with",
        f"Put HumanML3D's own Mean.npy and Std.npy there, or into {dataset}; never compute them.",
    )  # fmt: skip


def _condition_dropout(prior: Prior) -> float:
    """Of the last training that says; 0.1, as published, where none does."""
    entries = [entry.get("config", entry) for entry in prior.history]
    said = [entry.get("condition_dropout", entry.get("cond_mask_prob")) for entry in entries]
    return next((float(share) for share in reversed(said) if share is not None), 0.1)


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def _write_beside(path: Path, content: bytes) -> None:
    """Write what several steps of one checkpoint share, but never over that of another."""
    if path.exists() and path.read_bytes() != content:
        raise InputError(
            path, "a file of another checkpoint", "none, or the same",
            "Choose an empty folder: checkpoints are not overwritten.",
        )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
