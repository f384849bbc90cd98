"""Miniatures of official layouts: text encoders, checkpoints. Pure functions of a folder."""

import ast
import json
import string
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from t2imu_utils.models import momask, remodiffuse, t2mgpt
from t2imu_utils.models.checkpoints import OWN
from t2imu_utils.models.mdm import MDM, MDMConfig
from t2imu_utils.models.retrieval import OFFICIAL, build_database, save_database
from t2imu_utils.motion.corpus import Normaliser, statistics

POSITION_TABLES = ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe")
WORDS = (
    "a the person man woman someone walks walking runs running jumps jumping sits stands lies "
    "climbs stairs forward slowly quickly up down and on with both arms raised chair floor"
).split()
MERGES = ["p e", "pe r", "s o", "per so", "perso n</w>", "w a", "wa l", "wal k", "walk s</w>"]


def rule(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that follow from a parameter's name and shape alone, as in the golden vectors."""
    z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) <= 1:
        return torch.from_numpy(np.float32(key.endswith("weight")) + np.float32(0.02) * z)
    return torch.from_numpy(z / np.sqrt(np.float32(np.prod(shape[1:]))))


def official_args(config: MDMConfig) -> dict:
    """``args.json`` as later releases of official MDM write it.

    Its code fixes 4 heads, feed-forward 1024, dropout 0.1 and 196 frames; other sizes get the
    fields by which this project reads them.
    """
    encoder = {"trans_dec": "bert", "trans_enc": "clip"}[config.arch]
    sizes = {"num_heads": (config.heads, 4), "ff_size": (config.feedforward, 1024)}
    sizes |= {"dropout": (config.dropout, 0.1), "max_frames": (config.max_frames, 196)}
    return {
        "adam_beta2": 0.999, "arch": config.arch, "avg_model_beta": 0.9999, "batch_size": 64,
        "cond_mask_prob": 0.1, "context_len": 0, "cuda": True, "data_dir": "",
        "dataset": "humanml", "diffusion_steps": config.diffusion_steps, "emb_before_mask": False,
        "emb_trans_dec": False, "keyframe_cond_prob": 0.5, "keyframe_cond_type": "",
        "lambda_fc": 0.0, "lambda_rcxyz": 0.0, "lambda_vel": 0.0, "latent_dim": config.width,
        "layers": config.layers, "lr": 0.0001, "mask_frames": config.mask_frames,
        "noise_schedule": "cosine", "num_frames": 60, "num_steps": 600000,
        "pos_embed_max_len": 5000, "pred_len": 0, "save_dir": "save/a_model", "seed": 10,
        "sigma_small": True, "text_encoder_type": encoder, "unconstrained": False, "use_ema": True,
        **{name: value for name, (value, fixed) in sizes.items() if value != fixed},
    }  # fmt: skip


def official_shapes(config: MDMConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters and tables of an official checkpoint."""
    with torch.device("meta"):
        shapes = {key: tuple(x.shape) for key, x in MDM(config).state_dict().items()}
    return shapes | dict.fromkeys(POSITION_TABLES, (5000, 1, config.width))


def write_official_mdm(
    folder: Path,
    config: MDMConfig,
    step: int = 600000,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    """An official checkpoint with averaged weights by rule; returns the file of weights.

    The last weights (`model`) and the tables of sinusoids are nonsense: a reader that prefers the
    average and computes the tables never notices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = shapes or official_shapes(config)
    nonsense = {key: torch.tensor(7.0).expand(shape) for key, shape in shapes.items()}
    average = {
        key: nonsense[key] if key.endswith(".pe") else rule(key, shape)
        for key, shape in shapes.items()
    }
    (folder / "args.json").write_text(json.dumps(official_args(config), indent=4, sort_keys=True))
    path = folder / f"model{step:09d}.pt"
    torch.save({"model": nonsense, "model_avg": average}, path)
    return path


def write_statistics(folder: Path, level: float, names=("Mean.npy", "Std.npy")) -> None:
    """Mean and standard deviation of this level in all features."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        np.save(folder / name, np.full(263, level))


class Clip:
    """Stands in for the text encoder of the official checkpoints: its name, and made-up vectors."""

    name, fingerprint, max_tokens = "clip", "c" * 64, 77

    def __init__(self, pooled_width):
        self.pooled_width = pooled_width

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def encode_pooled(self, texts):
        seeds = [torch.Generator().manual_seed(sum(text.encode())) for text in texts]
        return torch.stack([torch.randn(self.pooled_width, generator=seed) for seed in seeds])


def shapes_of(network: torch.nn.Module, rename=lambda key: key) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what an official file holds of a network."""
    state = network.state_dict().items()
    return {rename(k): tuple(x.shape) for k, x in state if not k.endswith(OWN)}


def write_by_rule(folder: Path, states: dict[str, dict], files: dict, meta: str) -> Path:
    """Official files of networks, by name, and statistics drawn at random; returns the folder."""
    for name, state in states.items():
        file, (key, *_) = files[name]
        (folder / file).parent.mkdir(parents=True)
        torch.save({key: state, "ep": 12}, folder / file)
    (folder / meta).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("mean", "std"):
        values = rng.standard_normal(263) if name == "mean" else rng.random(263) + 0.1
        np.save(folder / meta / f"{name}.npy", values.astype(np.float32))
    return folder


def read_shapes(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes as they were listed from official files, by the class of the network."""
    found: dict[str, dict] = {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            part = found.setdefault(line.split()[1], {})
        elif line:
            key, shape, _ = line.split("\t")
            part[key] = ast.literal_eval(shape)
    return found


def write_official(folder: Path, prior, files: dict, meta: str = ".", rename=lambda key: key):
    """Networks of a prior and its statistics where, and under which keys, the official ones are."""
    networks = getattr(prior, "networks", None) or {"model": prior.model}
    for name, (file, (key, *_)) in files.items():
        state = networks[name].state_dict().items()
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: {rename(k): x for k, x in state if not k.endswith(OWN)}}, path)
    (folder / meta).mkdir(parents=True, exist_ok=True)
    for name in ("mean", "std"):
        values = np.asarray(getattr(prior.normaliser, name), dtype=np.float32)
        np.save(folder / meta / f"{name}.npy", values)


def write_t2mgpt(folder: Path, prior) -> None:
    """T2M-GPT's two files and statistics."""
    for name, file in t2mgpt.FILES.items():
        rename = partial(t2mgpt.GENERATOR.official, name)
        write_official(folder, prior, {name: file}, t2mgpt.META, rename)


def write_momask(folder: Path, prior) -> None:
    """MoMask's files and statistics."""
    write_official(folder, prior, momask.FILES, momask.GENERATOR.meta)


def write_mdm(folder: Path, prior) -> None:
    """MDM's file, settings and statistics."""
    write_official(folder, prior, {"model": ("model000600000.pt", ("model_avg",))})
    (folder / "args.json").write_text(json.dumps(official_args(prior.config)))


def write_official_momask(folder: Path, sizes: dict, clips: list, encoder) -> None:
    """MoMask's; sizes as a track gives them, weights drawn at random."""
    generator = momask.GENERATOR
    write_momask(folder, generator.untrained(generator.Sizes(**sizes), clips, encoder, seed=0))


def write_remodiffuse(folder: Path, prior) -> None:
    """ReMoDiffuse's file, statistics, and motions to retrieve, which bear no names."""
    files = {"model": (remodiffuse.WEIGHTS, ("state_dict",))}
    write_official(folder, prior, files, rename=lambda key: f"model.{key}")
    path = save_database(folder / remodiffuse.OFFICIAL_DATABASE, prior.database)
    with np.load(path) as file:
        arrays = {name: file[name] for name in OFFICIAL}
    np.savez(path, **arrays)


def write_official_remodiffuse(folder: Path, sizes: dict, clips: list, encoder) -> None:
    """ReMoDiffuse's; root and contact features scaled as officially, no weight zero."""
    mean, std = statistics([clip.features for clip in clips])
    for part in (slice(0, 4), slice(259, 263)):
        std[part] /= 25
    normaliser = Normaliser(mean, std)
    database = build_database(clips, normaliser, encoder)
    config = remodiffuse.ReMoDiffuseConfig(**sizes)
    prior = remodiffuse.new_remodiffuse_prior(config, normaliser, encoder, database, seed=0)
    with torch.no_grad():
        for key, parameter in prior.model.named_parameters():
            parameter.add_(0.05 * rule(key, tuple(parameter.shape)))
    write_remodiffuse(folder, prior)


def write_distilbert(folder: Path, width: int = 32, words: list[str] = WORDS) -> None:
    """A small ``distilbert-base-uncased``: WordPiece of words and letters, masked-LM weights."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [*(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = DistilBertConfig(
        vocab_size=len(vocabulary), dim=width, n_layers=2, n_heads=2, hidden_dim=2 * width,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = DistilBertForMaskedLM(config).state_dict()
    _write_weights(folder / "model.safetensors", state)
    config.architectures = ["DistilBertForMaskedLM"]
    config.save_pretrained(folder)


def write_clip(folder: Path, width: int = 32, pooled_width: int = 24) -> None:
    """A small ``clip-vit-base-patch32``: byte-level BPE, both towers in ``pytorch_model.bin``."""
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    # BPE writes every byte as a character; those that do not show are moved behind the others.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, shown), *(chr(256 + i) for i in range(256 - len(shown)))]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary += [merge.replace(" ", "") for merge in MERGES]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    settings = {"bos_token": "<|startoftext|>", "model_max_length": 77}
    settings |= {f"{name}_token": "<|endoftext|>" for name in ("eos", "pad", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    # The published file says that marks are 0, 1 and 2, which they are not.
    text = {
        "vocab_size": len(vocabulary), "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": pooled_width,
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 32, "patch_size": 32, "projection_dim": pooled_width,
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=pooled_width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        state = CLIPModel(config).state_dict()
    # Wide enough that words differ.
    state = {key: 10 * x if "embedding.weight" in key else x for key, x in state.items()}
    # Published when counters were still weights.
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(state, folder / "pytorch_model.bin")
    config.save_pretrained(folder)


def _write_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    # Tied weights stand in a file once.
    kept: dict[int, str] = {}
    for key, x in state.items():
        kept.setdefault(x.data_ptr(), key)
    tensors = {key: state[key].clone() for key in kept.values()}
    save_file(tensors, path, metadata={"format": "pt"})
