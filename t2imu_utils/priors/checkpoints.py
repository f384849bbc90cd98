"""A trained prior and everything needed to use it again, in one safetensors file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.priors.mdm import MDM, MDMConfig, new_mdm
from t2imu_utils.priors.text import TextEncoder, load_text_encoder
from t2imu_utils.runs import atomic_write

FORMAT = "t2imu-prior-1"
REMEDY = "Use the file that the training wrote, or train the prior again."


@dataclass
class Prior:
    """A text-to-motion prior: network, statistics of its features, its text encoder.

    history: one entry for each training that led here (its settings and what it ended with).
    """

    model: MDM
    normaliser: Normaliser
    text_encoder: TextEncoder
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def config(self) -> MDMConfig:
        """Sizes of the network."""
        return self.model.config

    @property
    def text_encoder_name(self) -> str:
        """Name of the text encoder, as `load_text_encoder` knows it."""
        return self.text_encoder.name

    def condition(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        """What the network is told of texts, and which of it is no padding.

        `trans_dec` attends to the token states; `trans_enc` gets the pooled vector as one token.
        """
        if self.config.arch == "trans_dec":
            return self.text_encoder.encode(texts)
        pooled = self.text_encoder.encode_pooled(texts)[:, None]
        return pooled, torch.ones(pooled.shape[:2], dtype=torch.bool)


def new_prior(
    config: MDMConfig, normaliser: Normaliser, text_encoder: TextEncoder, seed: int
) -> Prior:
    """An untrained prior; `text_width` of `config` is set to what the encoder gives it."""
    width = condition_width(config.arch, text_encoder)
    return Prior(new_mdm(replace(config, text_width=width), seed), normaliser, text_encoder)


def condition_width(arch: str, text_encoder: TextEncoder) -> int:
    """Size of what `Prior.condition` gives: of a token state, or of the pooled vector."""
    return text_encoder.width if arch == "trans_dec" else text_encoder.pooled_width


def save_prior(path: Path, prior: Prior) -> Path:
    """Write a prior atomically: float32 tensors, the rest as JSON in the file's metadata."""
    tensors = {key: x.detach().float().cpu() for key, x in prior.model.state_dict().items()}
    for name in ("mean", "std"):
        values = np.asarray(getattr(prior.normaliser, name), dtype=np.float32)
        tensors[f"normaliser.{name}"] = torch.from_numpy(values.copy())
    encoder = prior.text_encoder
    about = {
        "format": FORMAT,
        "config": asdict(prior.config),
        "text_encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "history": prior.history,
    }
    metadata = {"t2imu": json.dumps(about, sort_keys=True)}
    with atomic_write(Path(path)) as temporary:
        save_file({key: x.contiguous() for key, x in tensors.items()}, temporary, metadata)
    return Path(path)


def load_prior(
    path: Path,
    text_encoder: TextEncoder | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Prior:
    """Read a prior that `save_prior` wrote, in evaluation mode.

    text_encoder: the encoder to use; None loads the one that the prior names, with token states
    kept in `cache`.

    Raises:
        InputError: no such file, a damaged one, parameters that do not fit the file's own
            configuration (all are listed), or another text encoder than that of the training.
    """
    path = Path(path)
    tensors, about = _read(path)
    config = _config(path, about)
    named = about["text_encoder"]
    if text_encoder is None:
        text_encoder = load_text_encoder(named["name"], cache)
    if text_encoder.fingerprint != named["fingerprint"]:
        raise InputError(
            f"{path}: text_encoder",
            f"{text_encoder.name} {text_encoder.fingerprint[:12]}",
            f"{named['name']} {named['fingerprint'][:12]}, which the prior was trained with",
            "Pass that encoder; another one's token states mean nothing to this prior.",
        )
    model = MDM(config)
    wanted = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    wanted |= {f"normaliser.{name}": (config.channels,) for name in ("mean", "std")}
    check_parameters(path, tensors, wanted, f"those of {config}", REMEDY)
    statistics = [tensors.pop(f"normaliser.{name}").numpy() for name in ("mean", "std")]
    model.load_state_dict(tensors)
    model.to(device).eval()
    return Prior(model, Normaliser(*statistics), text_encoder, about["history"])


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not path.is_file():
        raise InputError(path, "no such file", "a prior written by save_prior", REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("t2imu", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise InputError(
            path, f"unreadable ({error})", "a whole safetensors file", REMEDY
        ) from error
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: format", repr(about.get("format")), repr(FORMAT), REMEDY)
    return tensors, about


def _config(path: Path, about: dict[str, Any]) -> MDMConfig:
    missing = {"config", "text_encoder", "history"} - set(about)
    if missing:
        raise InputError(
            f"{path}: metadata", f"no {', '.join(sorted(missing))}", "all of it", REMEDY
        )
    known = {f.name for f in fields(MDMConfig)}
    if set(about["config"]) != known:
        wrong = ", ".join(sorted(known ^ set(about["config"])))
        raise InputError(f"{path}: config", f"missing or unknown: {wrong}", "MDMConfig", REMEDY)
    return MDMConfig(**about["config"])


def check_parameters(
    path: Path,
    tensors: Mapping[str, Any],
    wanted: Mapping[str, tuple[int, ...]],
    expected: str,
    remedy: str,
) -> None:
    """Compare parameters with the names and shapes wanted; all must be float32 and finite.

    Raises:
        InputError: lists everything that is missing, unknown, of another shape or type, or not
            finite, as what was found where `expected` was.
    """
    problems = [f"{key} is missing" for key in wanted if key not in tensors]
    problems += [f"{key} is unknown" for key in tensors if key not in wanted]
    for key in wanted.keys() & tensors.keys():
        found = tensors[key]
        if not isinstance(found, Tensor):
            problems.append(f"{key} is no tensor")
        elif tuple(found.shape) != wanted[key] or found.dtype != torch.float32:
            kind = str(found.dtype).removeprefix("torch.")
            problems.append(f"{key} is {kind} {tuple(found.shape)}, not float32 {wanted[key]}")
        elif not found.isfinite().all():
            problems.append(f"{key} holds values that are not finite")
    if problems:
        raise InputError(f"{path}: parameters", "; ".join(sorted(problems)), expected, remedy)
