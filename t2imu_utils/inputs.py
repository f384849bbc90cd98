"""Inputs of the tracks: what each is, whether it is there and right, and how to get it.

The registry is ``data/inputs.yaml``. A check reads names, headers, and the checksum where one is
published; nothing is unpickled. Downloads are `pooch`'s: whole, or not there at all.
"""

import json
import os
import re
import shutil
import tempfile
import textwrap
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pooch
import yaml

from t2imu_utils.errors import InputError
from t2imu_utils.files import sha256
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import READY_MADE, Section, Track, data_root, load_track

HUB = "https://huggingface.co"
INPUTS = ROOT / "data" / "inputs.yaml"
COMMAND = "t2imu data fetch"
COLUMNS = ["input", "needed", "state", "why", "what", "licence", "page", "size", "path", "get"]
TORCH = b"\x80\x02\x8a"  # a file of PyTorch before 1.6; later ones are zip archives
PAGE = (b"<!doctype html", b"<html", b"<head")  # a notice in place of the file
# What damaged content raises: of archives, of arrays, of text and JSON, of fields of another type.
UNREADABLE = (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError)
UNREADABLE += (zipfile.BadZipFile,)


class Download(Section):
    """One file that needs no login; `name` and `unpack` (a zip, into) lie below the input."""

    name: str
    url: str | None = None  # complete, or below the input's `base`; `name` where there is none
    sha256: str | None = None
    md5: str | None = None
    unpack: str | None = None


class Members(Section):
    """Files to be counted, in folders and in zips: by the first group of `pattern`."""

    what: str
    pattern: str
    least: int
    whole: int | None = None
    packed: str | None = None  # an archive within the archive that may hold them


class Input(Section):
    """One input: a data set, a model or a table.

    names: globs of what must be there, alternatives parted by " | ". shapes: of arrays, by glob and
    for an ``.npz`` by key; null for any. says: values that keys of a JSON file may have.
    """

    name: str
    what: str
    licence: str  # in plain words
    page: str  # its home
    size: str
    path: str  # its folder below `tracks.data_root`
    names: list[str] = []
    members: list[Members] = []
    shapes: dict[str, list[int | None] | None] = {}
    says: dict[str, dict[str, list[Any]]] = {}
    base: str = ""
    files: list[Download] = []
    steps: list[str] = []  # what to do by hand, or where a download is refused

    def url(self, file: Download) -> str:
        """The address of one of the input's files; ``HF_ENDPOINT`` names another hub."""
        url = file.url or file.name
        url = url if url.startswith(("http://", "https://")) else self.base + url
        return url.replace(HUB, os.environ.get("HF_ENDPOINT", HUB).rstrip("/"), 1)

    def target(self, file: Download, root: Path) -> Path:
        """Where a file belongs below the data folder."""
        return Path(os.path.normpath(Path(root) / self.path / file.name))


class Needs(Section):
    """Names of inputs: all of `required`, all of one list of `either`, and what else is read."""

    required: list[str] = []
    either: list[list[str]] = []
    optional: list[str] = []


class Registry(Section):
    """All inputs by name, and what each reader of a corpus needs of them."""

    inputs: dict[str, Input]
    corpora: dict[str, Needs]
    text_encoders: dict[str, str] = {}  # whose files are not an input of the encoder's name


def load_registry() -> Registry:
    """All inputs of ``data/inputs.yaml``."""
    content = yaml.safe_load(INPUTS.read_text(encoding="utf-8"))
    for name, entry in content["inputs"].items():
        entry["name"] = name
    return Registry.model_validate(content)


def find_input(registry: Registry, name: str) -> Input:
    if name not in registry.inputs:
        known = ", ".join(sorted(registry.inputs))
        raise InputError("input", repr(name), f"one of {known}", "Check its spelling.")
    return registry.inputs[name]


def needs_of(track: Track, registry: Registry) -> Needs:
    """What a track reads from the data folder, by its corpus, recordings, body and generators.

    What it makes up, what comes with the package, and what the registry does not know (checkpoints
    of one's own, motions that other projects made) are not listed.
    """
    corpus = registry.corpora[track.corpus.reader]
    required = list(corpus.required)
    by_path = {entry.path: name for name, entry in registry.inputs.items()}
    for name, section in track.generators.items():
        required.append(by_path.get(section.checkpoint, ""))
        if (section.family or name) not in READY_MADE:
            encoder = section.text_encoder or track.text_encoder
            required.append(registry.text_encoders.get(encoder, encoder))
    required.append(track.body)
    sections = (track.recordings, *track.more_recordings.values())
    required += [section.reader for section in sections if section.made_up is None]
    required = [name for name in dict.fromkeys(required) if name in registry.inputs]
    optional = [name for name in corpus.optional if name not in required]
    return Needs(required=required, either=corpus.either, optional=optional)


def examine(entry: Input, root: Path) -> tuple[str, str]:
    """ "present", "missing", "incomplete" or "wrong", and why, or what of it is there."""
    folder = Path(root) / entry.path
    found, lacking, counts, short = [], [], [], False
    for name in entry.names:
        paths = (path for pattern in name.split(" | ") for path in folder.glob(pattern))
        first = next(paths, None)
        found += [first] if first else []
        lacking += [] if first else [name.replace(" | ", " or ")]
    if lacking and not found:
        return "missing", "none of its files is there"
    files = [(file, entry.target(file, root)) for file in entry.files]
    try:
        for path in [*found, *(p for _, p in files if p.exists()), *sorted(folder.glob("*.zip"))]:
            if fault := fault_of(path, entry, folder):
                return "wrong", f"{path.name} {fault}"
        names = []
        if entry.members:  # of the files below, and of the members of the zips there
            below = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [path.relative_to(folder).as_posix() for path in below]
            for path in sorted(folder.glob("*.zip")):
                with zipfile.ZipFile(path) as archive:
                    names += [f"{path.name}/{name}" for name in archive.namelist()]
    except UNREADABLE as error:
        return "wrong", f"unreadable: {error}"
    for wanted in entry.members:
        keys = {match[1] for name in names if (match := re.search(wanted.pattern, name))}
        if wanted.packed and any(re.search(wanted.packed, name) for name in names):
            counts.append(f"{wanted.what} in an archive within the archive")
            continue
        counts.append(f"{len(keys)}{f' of {wanted.whole}' if wanted.whole else ''} {wanted.what}")
        short |= len(keys) < wanted.least
    if counts and not found and all(count.startswith("0 ") for count in counts):
        return "missing", f"no {', no '.join(wanted.what for wanted in entry.members)}"
    told = [f"lacks {', '.join(lacking)}"] if lacking else counts or [path.name for path in found]
    for file, path in files:
        if file.sha256 and path.exists() and sha256(path) != file.sha256:
            told.append(f"{path.name} differs from the published file")
    return "incomplete" if lacking or short else "present", ", ".join(told)


def fault_of(path: Path, entry: Input, folder: Path) -> str:
    """Why a file cannot be what it should be, by its head and `entry`; "" for none."""
    kind, shapes, says = path.suffix.lower(), entry.shapes, entry.says
    name = os.path.relpath(path, folder)
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.lstrip().lower().startswith(PAGE):
        return "is a web page"
    if kind in (".zip", ".npz", ".pt", ".pth", ".tar", ".bin"):
        if not zipfile.is_zipfile(path) and (kind in (".zip", ".npz") or head[:3] != TORCH):
            return "is no whole archive"
    if kind == ".json":
        content = json.loads(path.read_text("utf-8-sig"))
        for key, allowed in says.get(name, {}).items():
            if content.get(key, allowed[0]) not in allowed:
                return f"says {key} = {content[key]!r}, not {allowed[0]!r}: another model"
    for place, shape in shapes.items():
        pattern, _, key = place.partition(":")
        if not fnmatch(name, pattern):
            continue
        array = np.load(path, mmap_mode="r")  # refused where the header promises more
        if key and key not in array.files:
            return f"has no array {key}"
        real = (array[key] if key else array).shape if shape else ()
        if [m if n else None for m, n in zip(real, shape or (), strict=False)] != (shape or []):
            return f"has {key or 'an array'} of shape {real}, not {shape}"
    return ""


def status(track: str, root: Path | None = None) -> pd.DataFrame:
    """Every input of a track: is it there and right, under which terms, and how to get it.

    track: its name, or the path of a YAML file. root: the data folder, or that of `tracks`. A row
    an input: needed is "required", "either, choice 1" and so on, or "optional"; get is a command,
    or steps by hand, one a line.
    """
    root = data_root() if root is None else Path(root)
    registry = load_registry()
    needs = needs_of(load_track(track), registry)
    listed = [(name, "required") for name in needs.required]
    listed += [(n, f"either, choice {i}") for i, names in enumerate(needs.either, 1) for n in names]
    listed += [(name, "optional") for name in needs.optional]
    rows = []
    for name, needed in listed:
        entry = registry.inputs[name]
        steps = [f"{number}. {step}" for number, step in enumerate(entry.steps, 1)]
        how = [f"{COMMAND} {name}", *["if that is refused:"] * bool(steps)]
        get = "\n".join([*(how if entry.files else ["by hand:"]), *steps])
        about = entry.what, entry.licence, entry.page, entry.size, f"{entry.path}/"
        rows.append((name, needed, *examine(entry, root), *about, get))
    return pd.DataFrame(rows, columns=COLUMNS)


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The inputs that count: of choices one that is whole, or can be downloaded, or the first."""
    either = table["needed"].str.startswith("either")
    choices = [group for _, group in table[either].groupby("needed", sort=True)]
    whole = [g for g in choices if (g["state"] == "present").all()]
    by_command = [g for g in choices if g["get"].str.startswith(COMMAND).all()]
    first = [*whole, *by_command, *choices, table][0]["input"]
    return table[~either | table["input"].isin(first)]


def lacking(table: pd.DataFrame) -> list[str]:
    """Names of the inputs that a track still lacks; empty if it can run."""
    counted = chosen(table)
    absent = (counted["state"] != "present") & (counted["needed"] != "optional")
    return counted.loc[absent, "input"].tolist()


def as_text(table: pd.DataFrame, track: str, root: Path, width: int = 80) -> str:
    """The table for a terminal of `width` columns, with what to do next at its end."""
    if table.empty:
        return f"Track {track} needs nothing: it makes its own data."
    lines = [f"Inputs of track {track}. Data folder (T2IMU_DATA): {root}"]
    for row in table.itertuples():
        lines += ["", f"{row.state.upper():<11} {row.input}  [{row.needed}]"]
        facts = {"what": f"{row.what} ({row.size})", "why": row.why, "licence": row.licence}
        facts |= {"from": row.page, "path": str(root / row.path)}
        facts |= {"get": row.get} if row.state != "present" else {}
        for label, text in facts.items():
            for i, part in enumerate(text.split("\n")):
                start = f"  {'' if i else label:<8} "
                lines += textwrap.wrap(
                    part, width, initial_indent=start, subsequent_indent=" " * len(start),
                    break_long_words=False, break_on_hyphens=False,
                )  # fmt: skip
    absent = lacking(table)
    fetched = set(table.loc[table["get"].str.startswith(COMMAND), "input"]) & set(absent)
    said = [f"Track {track} lacks: {', '.join(absent)}." if absent else f"Track {track} can run."]
    if fetched:
        said.append(f"Next: {COMMAND} --track {track}")
    if by_hand := [name for name in absent if name not in fetched]:
        said.append(f"By hand, as told above: {', '.join(by_hand)}.")
    return "\n".join([*lines, "", *said])


def plan(entry: Input, root: Path) -> list[tuple[str, Path]]:
    """Address and place of each file that `fetch` would download."""
    files = [(entry.url(file), entry.target(file, root)) for file in entry.files]
    return [(url, path) for url, path in files if not path.exists()]


def fetch(entry: Input, root: Path, progress: bool = True) -> None:
    """Download the files of an input that are not there, and unpack them; never write over any."""
    pooch.get_logger().setLevel("WARNING")
    for file in entry.files:
        url, path = entry.url(file), entry.target(file, root)
        remedy = f"Fetch again, or download it in a browser and save it as {path}. {entry.page}"
        try:
            if not path.exists():
                digest = file.sha256 or (f"md5:{file.md5}" if file.md5 else None)
                loader = pooch.HTTPDownloader(progressbar=progress, timeout=60)
                pooch.retrieve(url, digest, path.name, path.parent, downloader=loader)
                if fault := fault_of(path, entry, Path(root) / entry.path):
                    path.unlink()
                    raise ValueError(f"a file that {fault}")
            if file.unpack:
                unpack(path, Path(root) / entry.path / file.unpack)
        except UNREADABLE as error:
            raise InputError(f"{entry.name}: {url}", str(error), "the file", remedy) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into `folder`, without folders that hold all of it; keeps what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as staging:
        with zipfile.ZipFile(archive) as source:
            source.extractall(staging)
        top = Path(staging)
        shutil.rmtree(top / "__MACOSX", ignore_errors=True)
        while len(held := list(top.iterdir())) == 1 and held[0].is_dir():
            top = held[0]
        for path in sorted(p for p in top.rglob("*") if p.is_file()):
            place = folder / path.relative_to(top)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                os.replace(path, place)
