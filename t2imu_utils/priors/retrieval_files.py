"""Files of retrieval databases: this project's own and the official one of ReMoDiffuse.

The file has the layout of the official ``t2m_text_train.npz``, with three arrays more that say
whose clips they are:

    text_features      (N, P) pooled states of the captions
    captions           (N,) one sentence a motion
    motions            (N, F, 263) normalised features, zero behind their end
    m_lengths          (N,) frames
    clip_seq_features  (N, L, W) token states of the captions
    names, sources     (N,) clips and recordings they were cut from        } not in the
    token_counts       (N,) valid token states                             } official file
    about              JSON: version, text encoder, statistics             }

The database has no more than one caption for each motion, the first, as the official one.
"""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write
from t2imu_utils.motion.features import WIDTH
from t2imu_utils.priors.retrieval import Database, check_encoder, versioned
from t2imu_utils.priors.text import TextEncoder

FORMAT = "t2imu-retrieval-1"
OFFICIAL = ("text_features", "captions", "motions", "m_lengths", "clip_seq_features")
OWN = ("names", "sources", "token_counts", "about")
REMEDY = "Build the database again from the training clips."
# An official file must agree with the encoder that it is read for, on this many captions.
COMPARED = 4


def save_database(path: Path, database: Database) -> Path:
    """Write a database atomically, in the layout above."""
    about = {
        "format": FORMAT,
        "version": database.version,
        "encoder": list(database.encoder),
        "statistics": database.statistics,
    }
    arrays = {
        "text_features": database.pooled,
        "captions": np.array(database.captions),
        "motions": pad_sequence(database.motions, batch_first=True).numpy(),
        "m_lengths": database.lengths,
        "clip_seq_features": pad_sequence(database.tokens, batch_first=True).numpy(),
        "token_counts": np.array([len(states) for states in database.tokens]),
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
    }
    if database.names is not None:
        arrays |= {"names": np.array(database.names), "sources": np.array(database.sources)}
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
    return Path(path)


def read_database(path: Path, encoder: TextEncoder) -> Database:
    """Read a database that `save_database` wrote, or the official ``t2m_text_train.npz``.

    The official file says neither whose clips it holds (so no prior can be trained with it) nor
    who encoded its captions: `encoder` must be `clip`, and must encode its first captions alike.
    It takes about 8 GB of memory.

    Raises:
        InputError: no such file, a damaged one, motions that are not normalised or not zero behind
            their end, or captions encoded by another text encoder.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    about = _about(path, arrays)
    lengths, motions = arrays["m_lengths"].astype(int), arrays["motions"]
    states = arrays["clip_seq_features"]
    counts = arrays.get("token_counts", np.full(len(states), states.shape[1] if states.ndim else 0))
    _check_arrays(path, arrays, lengths, counts)
    names = arrays["names"].tolist() if "names" in arrays else None
    database = versioned(
        captions=[str(text) for text in arrays["captions"]],
        motions=[torch.from_numpy(x[:n]) for x, n in zip(motions, lengths, strict=True)],
        tokens=[torch.from_numpy(x[:n]) for x, n in zip(states, counts, strict=True)],
        pooled=arrays["text_features"],
        names=names,
        sources=arrays["sources"].tolist() if names is not None else None,
        encoder=tuple(about["encoder"]) if about else ("clip", None),
        statistics=about["statistics"] if about else None,
    )
    check_encoder(database, encoder, path)
    if about is None:
        _check_official(path, database, encoder)
    elif about["version"] != database.version:
        raise InputError(
            f"{path}: version", database.version[:12], about["version"][:12],
            f"The file was changed after it was written. {REMEDY}",
        )  # fmt: skip
    return database


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(path, "no such file", "a retrieval database (.npz)", REMEDY)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*OFFICIAL, *OWN) if name in file.files}
    except (BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise InputError(path, f"unreadable ({error})", "a whole .npz file", REMEDY) from error
    missing = [name for name in OFFICIAL if name not in arrays]
    if missing:
        raise InputError(path, f"no {', '.join(missing)}", f"arrays {', '.join(OFFICIAL)}", REMEDY)
    for name in ("text_features", "motions", "clip_seq_features"):
        if arrays[name].dtype.kind != "f":
            raise InputError(f"{path}: {name}", str(arrays[name].dtype), "real numbers", REMEDY)
        arrays[name] = np.ascontiguousarray(arrays[name], dtype=np.float32)
    return arrays


def _about(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    if "about" not in arrays:
        return None
    try:
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r}")
        if not {"version", "encoder", "statistics"} <= set(about) or len(about["encoder"]) != 2:
            raise ValueError("fields are missing")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: about", str(error), f"those of {FORMAT}", REMEDY) from error
    return about


def _check_arrays(path: Path, arrays: dict[str, np.ndarray], lengths, counts) -> None:
    n = len(lengths)
    shapes = {name: x.shape for name, x in arrays.items() if name != "about"}
    wanted = {"text_features": 2, "motions": 3, "clip_seq_features": 3}
    for name, shape in shapes.items():
        if len(shape) != wanted.get(name, 1) or shape[0] != n or not n:
            raise InputError(
                f"{path}: {name}", f"shape {shape}", f"{wanted.get(name, 1)} axes, the first {n}",
                REMEDY,
            )  # fmt: skip
    motions = arrays["motions"]
    if motions.shape[2] != WIDTH:
        raise InputError(f"{path}: motions", f"{motions.shape[2]} channels", f"{WIDTH}", REMEDY)
    for name, found, most in (
        ("m_lengths", lengths, motions.shape[1]),
        ("token_counts", counts, arrays["clip_seq_features"].shape[1]),
    ):
        if not ((found >= 1) & (found <= most)).all():
            raise InputError(
                f"{path}: {name}", f"{found.min()} to {found.max()}", f"1 to {most}", REMEDY
            )
    for row, (motion, length) in enumerate(zip(motions, lengths, strict=True)):
        if motion[length:].any() or not np.isfinite(motion).all():
            raise InputError(
                f"{path}: motions, row {row}", "values behind its end, or not finite",
                f"zeros from frame {length} on", REMEDY,
            )  # fmt: skip


def _check_official(path: Path, database: Database, encoder: TextEncoder) -> None:
    """An official file must hold z-scores, and this encoder's vectors."""
    frames = torch.cat(database.motions)
    centre = float((frames.mean(0).abs() / frames.std(0).clamp(min=1e-6)).median())
    if centre > 0.25:
        raise InputError(
            f"{path}: motions", f"channel means {centre:.2g} standard deviations away from 0",
            "normalised features (z-scores)", "Normalise them with the prior's statistics.",
        )  # fmt: skip
    found = encoder.encode_pooled(database.captions[:COMPARED]).double()
    stored = torch.from_numpy(database.unit[:COMPARED])
    cosine = float(torch.cosine_similarity(found, stored).min())
    if cosine < 0.99:
        raise InputError(
            f"{path}: text_features", f"vectors of another encoder (cosine {cosine:.3f})",
            f"those of {encoder.name} {encoder.fingerprint[:12]}",
            "Use the encoder that the file was made with, or build the database again.",
        )  # fmt: skip
