"""The registry of inputs, read from ``data/inputs.yaml``, and what a track needs of it."""

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from t2imu_utils.errors import InputError
from t2imu_utils.runs import ROOT
from t2imu_utils.tracks import EXPORTED, Section, Track

HUB = "https://huggingface.co"
INPUTS = ROOT / "data" / "inputs.yaml"
Kind = Literal["zip", "npy", "json", "text", "safetensors", "binary"]


class Download(Section):
    """One file that may be downloaded without a login.

    `name` and `into` lie below the folder of the input. `turn` says what is done with the file:
    ``unzip`` it into the folder `into`, or write the table `into` from it.
    """

    name: str
    url: str | None = None  # complete, or below the input's `base`; `name` where there is none
    kind: Kind  # what the first bytes must look like
    sha256: str | None = None
    md5: str | None = None
    turn: Literal["unzip", "descriptions"] | None = None
    into: str | None = None


class Input(Section):
    """One input: a data set, a model or a table."""

    name: str
    what: str
    licence: str  # in plain words
    page: str  # its home
    size: str
    path: str  # its folder below `tracks.data_root`
    check: str  # name of a function in `checks.CHECKS`
    facts: dict[str, Any] = {}  # what the check compares with
    base: str = ""
    files: list[Download] = []
    steps: list[str] = []  # what to do by hand, or where a download is refused

    def url(self, file: Download) -> str:
        """The complete address of one of the input's files; ``HF_ENDPOINT`` names another hub."""
        url = file.url or file.name
        url = url if url.startswith(("http://", "https://")) else self.base + url
        return url.replace(HUB, os.environ.get("HF_ENDPOINT", HUB).rstrip("/"), 1)


class Needs(Section):
    """Names of inputs: all of `required`, all of one list of `either`, and what else is read."""

    required: list[str] = []
    either: list[list[str]] = []
    optional: list[str] = []

    def names(self) -> list[str]:
        """All of them, in order, each once."""
        every = [*self.required, *(n for choice in self.either for n in choice), *self.optional]
        return list(dict.fromkeys(every))


class Registry(Section):
    """All inputs by name, and what each reader of a corpus needs of them."""

    inputs: dict[str, Input]
    corpora: dict[str, Needs]
    text_encoders: dict[str, str] = {}  # whose files are not an input of the encoder's name


def load_registry(path: Path = INPUTS) -> Registry:
    """Read and check the registry.

    Raises:
        InputError: no valid YAML, an unknown, missing or misspelt field, or a name of no input.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        for name, entry in content["inputs"].items():
            entry["name"] = name
        registry = Registry.model_validate(content)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            path, f"no registry of inputs ({error})", "inputs and corpora", "Restore it from git."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: {'.'.join(map(str, first['loc']))}",
            f"{first['msg'].lower()} (value {first['input']!r})",
            "the fields of t2imu_utils/inputs/registry.py",
            "Restore it from git.",
        ) from error
    for reader, needs in registry.corpora.items():
        for name in needs.names():
            find_input(registry, name, f"{path}: corpora.{reader}")
    return registry


def find_input(registry: Registry, name: str, where: str = "input") -> Input:
    """The input called `name`, or the only one whose folder is called so.

    Raises:
        InputError: there is none, with the names that there are.
    """
    if name in registry.inputs:
        return registry.inputs[name]
    found = [entry for entry in registry.inputs.values() if Path(entry.path).name == name]
    if len(found) != 1:
        known = ", ".join(sorted(registry.inputs))
        raise InputError(where, repr(name), f"one of {known}", "Check its spelling.")
    return found[0]


def target(entry: Input, file: Download, root: Path) -> Path:
    """Where a file of an input belongs below the data folder `root`."""
    parts: list[str] = []
    for part in (Path(entry.path) / file.name).parts:
        # ``..`` is taken back here: on disk it would need the folder, which may not be there yet.
        parts = parts[:-1] if part == ".." else [*parts, part]
    return Path(root).joinpath(*parts)


def needs_of(track: Track, registry: Registry) -> Needs:
    """What a track reads from the data folder.

    Follows from the track's corpus, recordings and body, and from the checkpoint and text encoder
    of each of its generators, so that tracks of one's own are covered. What the track makes up,
    what comes with the package, and what the registry does not know (checkpoints of one's own,
    motions that other projects made) are not listed.

    Raises:
        InputError: the registry does not know the track's corpus reader.
    """
    reader = track.corpus.reader
    if reader not in registry.corpora:
        raise InputError(
            f"track {track.name!r}: corpus.reader",
            repr(reader),
            f"one of {', '.join(registry.corpora)}",
            "Add what it needs to data/inputs.yaml.",
        )
    corpus = registry.corpora[reader]
    required = list(corpus.required)
    by_path = {entry.path: name for name, entry in registry.inputs.items()}
    for name, section in track.generators.items():
        if section.checkpoint in by_path:
            required.append(by_path[section.checkpoint])
        if (section.family or name) != EXPORTED:
            encoder = section.text_encoder or track.text_encoder
            required.append(registry.text_encoders.get(encoder, encoder))
    required = [name for name in [*required, track.body] if name in registry.inputs]
    if track.recordings.made_up is None and track.recordings.reader in registry.inputs:
        required.append(track.recordings.reader)
    optional = [name for name in corpus.optional if name not in required]
    required = list(dict.fromkeys(required))
    return Needs(required=required, either=corpus.either, optional=optional)
