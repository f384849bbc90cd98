"""The database of motions that ReMoDiffuse retrieves from: building it, scores, the best items.

Retrieval is deterministic, looks at caption and length, and in training never gives a clip what
shows the same recording. The file has the layout of the official ``t2m_text_train.npz``, with more
arrays that say whose clips they are:

    text_features      (N, P) pooled states of the captions
    captions           (N,) one sentence a motion, the first
    motions            (N, F, 263) normalised features, zero behind their end
    m_lengths          (N,) frames
    clip_seq_features  (N, L, W) token states of the captions
    names, sources     (N,) clips and recordings they were cut from        } not in the
    token_counts       (N,) valid token states                             } official file
    about              JSON: version, text encoder, statistics             }
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.models.text import ROWS, TextEncoder, pooled, unpadded
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.motion.features import WIDTH

# Queries scored at a time.
BLOCK = 256
# Scores are compared to this many decimals: sums in another order must not reorder equal ones.
DECIMALS = 9
_CUT = re.compile(r"_\d+_\d+$")


@dataclass(frozen=True, eq=False)
class Database:
    """Training motions to retrieve from, and what their captions mean to one text encoder.

    motions: normalised features (T, 263) of each item. tokens: valid token states (L, W) of its
    caption. pooled: (N, P) pooled states. names, sources: clip and recording of each item; None
    where unknown. encoder: name and fingerprint of the text encoder; None for the latter where the
    file does not say. statistics: hash of the normaliser, or None. version: hash of all of it.
    """

    captions: list[str]
    motions: list[Float[Tensor, "T 263"]]
    tokens: list[Float[Tensor, "L W"]]
    pooled: Float[np.ndarray, "N P"]
    names: list[str] | None
    sources: list[str] | None
    encoder: tuple[str, str | None]
    statistics: str | None
    version: str

    def __len__(self) -> int:
        return len(self.motions)

    @cached_property
    def lengths(self) -> Int[np.ndarray, "N"]:
        return np.array([len(motion) for motion in self.motions])

    @cached_property
    def unit(self) -> Float[np.ndarray, "N P"]:
        """Pooled states of length 1, float64."""
        return _unit(self.pooled)

    @cached_property
    def _relatives(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, (name, source) in enumerate(zip(self.names, self.sources, strict=True)):
            for key in _relations(name, source):
                rows.setdefault(key, []).append(row)
        return rows

    def kin(self, clip: MotionClip) -> list[int]:
        """Rows that show what `clip` shows: itself, its mirrored twin, cuts of its recording."""
        if self.names is None:
            raise InputError(
                "database: names", "none", "the names of its clips, to keep a training from "
                "retrieving the clip that it is to predict",
                "Build the database with build_database; official files cannot be trained on.",
            )  # fmt: skip
        keys = _relations(clip.name, clip.source)
        return sorted({row for key in keys for row in self._relatives.get(key, ())})


def _relations(name: str, source: str) -> set[str]:
    """What a clip is related by: its name without cut and mirror mark, and its recording."""
    base = _CUT.sub("", name)
    keys = {f"name:{base}", f"name:{base.removeprefix('M')}"}
    return keys | ({f"source:{source}"} if source else set())


def token_states(
    encoder: TextEncoder, texts: Sequence[str]
) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
    """Token states as ReMoDiffuse reads them, and which are valid.

    CLIP: always 77, all valid: behind the end of a text stand the states of padding (token 0),
    which have seen the whole text because attention is causal. Official weights were trained with
    them, and of a retrieved caption they read position 76 alone. Others: those of the real tokens.
    """
    if encoder.name != "clip":
        return encoder.encode(texts)
    found = encoder.tokens(texts)
    ids = torch.zeros(len(found), encoder.max_tokens, dtype=torch.long)
    for row, tokens in zip(ids, found, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    states = []
    for start in range(0, len(ids), ROWS):
        # As many rows each time, so that a text's states do not depend on its neighbours.
        batch = ids[start : start + ROWS]
        filled = torch.cat([batch, batch[:1].expand(ROWS - len(batch), -1)])
        with torch.inference_mode():
            states.append(encoder.network(filled).last_hidden_state[: len(batch)].clone())
    return torch.cat(states), torch.ones(ids.shape, dtype=torch.bool)


def build_database(
    clips: Sequence[MotionClip], normaliser: Normaliser, encoder: TextEncoder, max_frames: int = 196
) -> Database:
    """A database of training clips: the first `max_frames` of each, with its first caption."""
    captions = [clip.captions[0] for clip in clips]
    motions = [
        torch.from_numpy(np.asarray(normaliser.normalise(clip.features[:max_frames]), np.float32))
        for clip in clips
    ]
    return versioned(
        captions=captions,
        motions=motions,
        tokens=unpadded(partial(token_states, encoder), captions),
        pooled=pooled(encoder, captions).numpy(),
        names=[clip.name for clip in clips],
        sources=[clip.source for clip in clips],
        encoder=(encoder.name, encoder.fingerprint),
        statistics=sha256(
            b"".join(np.float32(x).tobytes() for x in (normaliser.mean, normaliser.std))
        ),
    )


def retrieve(
    database: Database,
    pooled: Float[np.ndarray, "Q P"],
    frames: Sequence[int],
    kin: Sequence[Sequence[int]] | None = None,
    count: int = 2,
    length_weight: float = 0.1,
) -> Int[np.ndarray, "Q count"]:
    """Rows of the best items for each query, best first; of equal ones the lower row.

    Score of ReMoDiffuse: cos(query, caption) · exp(-length_weight · |l_i - l| / max(l_i, l)).
    pooled, frames: of the queries. kin: rows that a query must not get (`Database.kin`).
    """
    lengths = np.asarray(frames, dtype=np.float64)
    unit = _unit(np.asarray(pooled))
    chosen = np.empty((len(unit), count), dtype=int)
    for start in range(0, len(unit), BLOCK):
        part = slice(start, start + BLOCK)
        own, theirs = lengths[part, None], database.lengths[None]
        apart = np.abs(theirs - own) / np.maximum(theirs, own)
        score = np.round(unit[part] @ database.unit.T * np.exp(-length_weight * apart), DECIMALS)
        for query, row in enumerate(score, start=start):
            barred = list(kin[query]) if kin is not None else []
            row[barred] = -np.inf
            left = len(database) - len(barred)
            if left < count:
                raise InputError(
                    "retrieval", f"{left} of {len(database)} motions left after leaving out "
                    f"{len(barred)} of the query's own recording",
                    f"at least {count} motions of other recordings",
                    "Put more clips into the database, or give each recording its own `source`.",
                )  # fmt: skip
        for place in range(count):
            best = score.argmax(axis=1)
            chosen[part, place] = best
            score[np.arange(len(score)), best] = -np.inf
    return chosen


def _unit(vectors: np.ndarray) -> Float[np.ndarray, "N P"]:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def gather(
    database: Database, rows: Int[np.ndarray, "B R"]
) -> tuple[
    Float[Tensor, "B R T 263"],
    Bool[Tensor, "B R T"],
    Float[Tensor, "B R L W"],
    Bool[Tensor, "B R L"],
]:
    """Motions and caption states of retrieved rows with their masks, padded to the longest."""
    flat = rows.ravel()
    parts = []
    for items in (database.motions, database.tokens):
        padded = pad_sequence([items[row] for row in flat], batch_first=True)
        counts = torch.tensor([len(items[row]) for row in flat])
        valid = torch.arange(padded.shape[1])[None] < counts[:, None]
        parts += [padded.unflatten(0, rows.shape), valid.unflatten(0, rows.shape)]
    return tuple(parts)


def versioned(**fields: Any) -> Database:
    """A database of these fields, with the hash of all of them as its version."""
    facts = [fields["captions"], fields["names"], fields["sources"], fields["encoder"]]
    parts = [json.dumps([*facts, fields["statistics"]])]
    for values in (*fields["motions"], *fields["tokens"], torch.from_numpy(fields["pooled"])):
        parts.append(f"{tuple(values.shape)}:{sha256(values.contiguous().numpy().tobytes())}")
    return Database(**fields, version=sha256("\n".join(parts).encode()))


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
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*OFFICIAL, *OWN) if name in file.files}
        about = json.loads(arrays["about"].tobytes()) if "about" in arrays else None
        whole, states = (
            arrays[name].astype(np.float32, copy=False) for name in ("motions", "clip_seq_features")
        )
        counts = arrays.get("token_counts", np.full(len(states), states.shape[1]))
        database = versioned(
            captions=[str(text) for text in arrays["captions"]],
            motions=[
                torch.from_numpy(x[: int(n)])
                for x, n in zip(whole, arrays["m_lengths"], strict=True)
            ],
            tokens=[torch.from_numpy(x[:n]) for x, n in zip(states, counts, strict=True)],
            pooled=arrays["text_features"].astype(np.float32),
            names=arrays["names"].tolist() if "names" in arrays else None,
            sources=arrays["sources"].tolist() if "names" in arrays else None,
            encoder=tuple(about["encoder"]) if about is not None else ("clip", None),
            statistics=about["statistics"] if about is not None else None,
        )
        fault = _fault(database, encoder, about)
    except (BadZipFile, OSError, EOFError, KeyError, ValueError, TypeError, IndexError) as error:
        fault = f"unreadable ({error!r})"
    if fault:
        expected = f"a retrieval database of {encoder.name} {encoder.fingerprint[:12]}"
        raise InputError(path, fault, expected, REMEDY)
    return database


def _fault(database: Database, encoder: TextEncoder, about: dict[str, Any] | None) -> str:
    """Why a database cannot be used with an encoder; "" where it can."""
    name, fingerprint = database.encoder
    if name != encoder.name or fingerprint not in (None, encoder.fingerprint):
        return f"texts that {name} {(fingerprint or '')[:12]} encoded"
    if about is not None:
        return "" if about["version"] == database.version else "changed after it was written"
    frames = torch.cat(database.motions)
    centre = float((frames.mean(0).abs() / frames.std(0).clamp(min=1e-6)).median())
    if frames.shape[1] != WIDTH or not centre <= 0.25:
        return f"{frames.shape[1]} channels, {centre:.2g} standard deviations from 0: no z-scores"
    stored = torch.from_numpy(database.unit[:COMPARED])
    found = encoder.encode_pooled(database.captions[:COMPARED]).double()
    cosine = float(torch.cosine_similarity(found, stored).min())
    return "" if cosine >= 0.99 else f"vectors of another encoder (cosine {cosine:.3f})"
