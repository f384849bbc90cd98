"""L_acc of every clip before and after refinement, with references and intervals (Fig. 1).

All models see the same noise: what is drawn for a clip at a timestep depends on the clip's name,
the timestep and the seed alone, so differences between models are paired.
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from t2imu_utils.activities import CATEGORIES, HIGH_DYNAMIC
from t2imu_utils.errors import InputError
from t2imu_utils.generators import Denoiser
from t2imu_utils.motion.corpus import MotionClip, Normaliser
from t2imu_utils.priors.losses import LossWeights, motion_losses

MODEL, GAUSSIAN, CONSTANT = "model", "gaussian", "constant"
ESTIMATES = (MODEL, GAUSSIAN, CONSTANT)
TERMS = ("simple", "pos", "foot", "vel", "acc", "acc_joints")
HIGH, LOW, ALL = "high-dynamic", "low-dynamic", "all"
TAILS = [2.5, 97.5]


def common_noise(
    name: str, timestep: int, seed: int, frames: int, channels: int = 263
) -> Float[np.ndarray, "T C"]:
    """Standard normal noise of one clip at one timestep: the same for every model and batch."""
    rng = np.random.default_rng([seed, timestep, zlib.crc32(name.encode())])
    return rng.standard_normal((frames, channels), dtype=np.float32)


def smooth_in_time(
    x: Float[Tensor, "B T C"], mask: Bool[Tensor, "B T"], sigma: float = 1.0
) -> Float[Tensor, "B T C"]:
    """Gaussian of `sigma` frames along time; at the ends its weights are those within the clip."""
    reach = int(np.ceil(4 * sigma))
    taps = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)[None, None]
    valid = mask[:, None].to(x.dtype)
    series = (x * mask[..., None]).transpose(1, 2).flatten(0, 1)[:, None]
    total = torch.conv1d(series, kernel, padding=reach).view(len(x), -1, x.shape[1])
    weight = torch.conv1d(valid, kernel, padding=reach).clamp(min=1e-6)
    return (total / weight).transpose(1, 2)


def freeze_in_time(x: Float[Tensor, "B T C"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
    """Every frame replaced by the clip's mean frame: no second difference in any channel."""
    weight = mask[..., None].to(x.dtype)
    return ((x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)).expand_as(x)


def levels_of(timesteps: Sequence[int], steps: int, levels: int) -> list[int]:
    """Noise levels as far along as `timesteps` of `steps`, for a model that has `levels`."""
    return sorted({t * levels // steps for t in timesteps})


def clip_losses(
    denoise: Denoiser,
    clips: Sequence[MotionClip],
    timesteps: Sequence[int],
    seed: int,
    batch_size: int = 32,
    references: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Losses of x̂_0 for every clip and timestep, one noise each, text given, no guidance.

    A clip is conditioned on its first caption, and one longer than the model takes is evaluated on
    its first frames (`frames` tells how many).

    Args:
        denoise: what a model makes of a noisy motion (`Generator.denoiser`); of a tokeniser, what
            decoding leaves of it, with the single timestep 0.
        timesteps: 0 ... noise levels - 1.
        references: also evaluate two things that are no better motion: the model's own x̂_0
            smoothed by a Gaussian of one frame ("gaussian"), and frozen at its mean ("constant").

    Returns:
        One row for each clip, timestep and estimate: ``clip``, ``timestep``, ``estimate``,
        ``frames`` and the losses. ``simple``, ``vel`` and ``acc`` are of
        normalised features, ``pos`` and ``foot`` in m², ``acc_joints`` in (m/s²)².
    """
    _check(denoise, clips, timesteps)
    pairs = [(clip, t) for clip in sorted(clips, key=lambda c: len(c.features)) for t in timesteps]
    batches = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    rows = []
    with torch.inference_mode():
        for batch in tqdm(batches, desc="losses", mininterval=2, disable=not progress):
            x0, noise, mask = (x.to(device) for x in _pad(denoise, batch, seed))
            t = torch.tensor([timestep for _, timestep in batch], device=device)
            x0_hat = denoise([clip for clip, _ in batch], x0, mask, t, noise)
            for estimate, guess in _estimates(x0_hat, mask, references):
                losses = _losses(x0, guess, mask, denoise.normaliser)
                rows += [
                    {"clip": clip.name, "timestep": timestep, "estimate": estimate,
                     "frames": int(frames), **dict(zip(TERMS, values, strict=True))}
                    for (clip, timestep), frames, values in zip(
                        batch, mask.sum(1).tolist(), losses, strict=True
                    )
                ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["estimate"] = pd.Categorical(table["estimate"], ESTIMATES)
    return table.sort_values(["clip", "timestep", "estimate"], ignore_index=True)


def _check(denoise: Denoiser, clips: Sequence[MotionClip], timesteps: Sequence[int]) -> None:
    names = [clip.name for clip in clips]
    if not names or len(set(names)) < len(names):
        raise InputError(
            "clips",
            f"{len(names)}, {len(names) - len(set(names))} of them with a name seen before",
            "at least one clip, each with its own name",
            "Noise and pairing go by the clip's name.",
        )
    steps = denoise.levels
    wrong = [t for t in timesteps if not 0 <= t < steps]
    if wrong or not len(timesteps):
        raise InputError(
            "timesteps",
            str(wrong or "none"),
            f"timesteps from 0 to {steps - 1}",
            "Choose others; the model has no more.",
        )


def _pad(
    denoise: Denoiser, batch: list[tuple[MotionClip, int]], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    ends = [min(len(clip.features), denoise.max_frames) for clip, _ in batch]
    ends = [end // denoise.stride * denoise.stride for end in ends]
    x0 = [
        torch.as_tensor(clip.features[:end], dtype=torch.float32)
        for (clip, _), end in zip(batch, ends, strict=True)
    ]
    noise = [
        torch.from_numpy(common_noise(clip.name, t, seed, len(x)))
        for (clip, t), x in zip(batch, x0, strict=True)
    ]
    lengths = torch.tensor([len(x) for x in x0])
    normal = [denoise.normaliser.normalise(x) for x in x0]
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return pad_sequence(normal, batch_first=True), pad_sequence(noise, batch_first=True), mask


def _estimates(
    x0_hat: Tensor, mask: Tensor, references: bool
) -> Iterator[tuple[str, Float[Tensor, "B T C"]]]:
    yield MODEL, x0_hat
    if references:
        yield GAUSSIAN, smooth_in_time(x0_hat, mask)
        yield CONSTANT, freeze_in_time(x0_hat, mask)


def _losses(
    x0: Tensor, x0_hat: Tensor, mask: Tensor, normaliser: Normaliser
) -> Float[np.ndarray, "B L"]:
    terms = motion_losses(x0, x0_hat, mask, LossWeights(), normaliser, all_terms=True)
    joints = LossWeights(acc=1.0, acc_variant="joints")
    terms["acc_joints"] = motion_losses(x0, x0_hat, mask, joints, normaliser)["acc"]
    return torch.stack([terms[name] for name in TERMS], 1).double().cpu().numpy()


def bootstrap_means(
    values: Float[np.ndarray, "n K"], units: Sequence, draws: int, seed: int | Sequence[int]
) -> Float[np.ndarray, "D K"]:
    """Means of `values` over bootstrap samples of whole units, each row counting once.

    Rows of one unit (clips cut from one trial, say) are not independent: units are resampled with
    replacement, and all rows of a unit go with it.
    """
    code = np.unique(np.asarray(units), return_inverse=True)[1]
    number = code.max() + 1
    totals = np.zeros((number, values.shape[1]))
    np.add.at(totals, code, values)
    counts = np.random.default_rng(seed).multinomial(
        number, np.full(number, 1 / number), size=draws
    )
    return (counts @ totals) / (counts @ np.bincount(code))[:, None]


def paired_difference(
    before: pd.DataFrame,
    after: pd.DataFrame,
    groups: pd.DataFrame,
    value: str = "acc",
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Change of a loss from one model to another, per category, with 95 % intervals.

    A clip's loss is its mean over timesteps; a group's is the mean over its clips. Intervals are
    percentiles of a paired bootstrap over units.

    Args:
        before, after: rows of one estimate of `clip_losses`, for the same clips and timesteps.
        groups: ``clip``, ``category`` and, where clips are not independent, ``unit`` (the trial
            or recording that they were cut from).
        value: the column to compare.

    Returns:
        Rows: categories present, then "high-dynamic", "low-dynamic" and "all". Columns: ``group``,
        ``clips``, ``units``, ``before``, ``after``, ``delta`` with ``delta_low`` and
        ``delta_high``, ``relative`` (delta / before) with its interval, and ``effect_size``
        (Cohen's d_z: mean / standard deviation of the units' mean changes). Intervals and effect
        size are NaN for a single unit.
    """
    table = _paired(before, after, groups, value)
    selections = {c: table["category"] == c for c in CATEGORIES}
    high = table["category"].isin(HIGH_DYNAMIC)
    selections |= {HIGH: high, LOW: ~high, ALL: np.ones(len(table), bool)}
    rows = [
        _difference(name, table[chosen], draws, [seed, zlib.crc32(name.encode())])
        for name, chosen in selections.items()
        if np.any(chosen)
    ]
    return pd.DataFrame(rows)


def dynamic_contrast(
    before: pd.DataFrame,
    after: pd.DataFrame,
    groups: pd.DataFrame,
    value: str = "acc",
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """How much more a loss changed in high- than in low-dynamic clips, with its 95 % interval.

    Arguments as in `paired_difference`; the two kinds are resampled separately.
    """
    table = _paired(before, after, groups, value)
    high = table["category"].isin(HIGH_DYNAMIC)
    if not 0 < high.sum() < len(table):
        raise InputError(
            "groups: category",
            f"{int(high.sum())} high-dynamic clips of {len(table)}",
            "clips of both kinds",
            "Evaluate on more clips.",
        )
    means = [
        bootstrap_means(part[["delta"]].to_numpy(), part["unit"], draws, seed + i)[:, 0]
        for i, part in enumerate((table[high], table[~high]))
    ]
    low_end, high_end = np.percentile(means[0] - means[1], TAILS)
    difference = table.loc[high, "delta"].mean() - table.loc[~high, "delta"].mean()
    return {"difference": float(difference), "low": float(low_end), "high": float(high_end)}


def _paired(
    before: pd.DataFrame, after: pd.DataFrame, groups: pd.DataFrame, value: str
) -> pd.DataFrame:
    """One row a clip: category, unit, before, after, delta; refuses tables that do not match."""
    keys = ["clip", "timestep"]
    first, second = (set(map(tuple, t[keys].to_numpy())) for t in (before, after))
    repeated = any(t.duplicated(keys).any() for t in (before, after))
    if first != second or repeated:
        raise InputError(
            "before, after",
            "a clip and timestep twice" if repeated else f"{len(first ^ second)} rows unmatched",
            "the same clips and timesteps, each once",
            "Evaluate both on the same clips, and select one `estimate`.",
        )
    means = pd.DataFrame(
        {
            name: t.groupby("clip")[value].mean()
            for name, t in (("before", before), ("after", after))
        }
    ).reset_index()
    missing = sorted(set(means["clip"]) - set(groups["clip"]))
    if missing or groups["clip"].duplicated().any():
        raise InputError(
            "groups: clip",
            f"no row for {', '.join(missing[:3])}" if missing else "a clip twice",
            "one row for each clip that was evaluated",
            "Categorise all clips.",
        )
    table = means.merge(groups, on="clip", how="left")
    unit = table["unit"] if "unit" in table else table["clip"]
    return table.assign(unit=unit, delta=table["after"] - table["before"])


def _difference(name: str, table: pd.DataFrame, draws: int, seed: list[int]) -> dict:
    before, delta = table["before"].mean(), table["delta"].mean()
    units = table.groupby("unit")["delta"].mean()
    row = {
        "group": name,
        "clips": len(table),
        "units": len(units),
        "before": before,
        "after": table["after"].mean(),
        "delta": delta,
        "delta_low": np.nan,
        "delta_high": np.nan,
        "relative": delta / before,
        "relative_low": np.nan,
        "relative_high": np.nan,
        "effect_size": np.nan,
    }
    if len(units) > 1:
        drawn = bootstrap_means(table[["delta", "before"]].to_numpy(), table["unit"], draws, seed)
        row["delta_low"], row["delta_high"] = np.percentile(drawn[:, 0], TAILS)
        ratio = np.percentile(drawn[:, 0] / drawn[:, 1], TAILS)
        row["relative_low"], row["relative_high"] = ratio
        spread = units.std()
        row["effect_size"] = units.mean() / spread if spread > 0 else np.nan
    return row
