"""L_acc of every clip before and after refinement, with references and intervals (Fig. 1).

All models see the same noise: what is drawn for a clip at a timestep depends on the clip's name,
the timestep and the seed alone, so differences between models are paired.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from t2imu_utils.activities import CATEGORIES, HIGH_DYNAMIC
from t2imu_utils.analysis.stats import FEWEST, bootstrap_means, over_seeds, stream
from t2imu_utils.errors import InputError
from t2imu_utils.models.generator import Denoiser
from t2imu_utils.models.losses import LossWeights, motion_losses
from t2imu_utils.motion.corpus import MotionClip

MODEL, GAUSSIAN, CONSTANT = "model", "gaussian", "constant"
ESTIMATES = (MODEL, GAUSSIAN, CONSTANT)
TERMS = ("simple", "pos", "foot", "vel", "acc", "acc_joints")
HIGH, LOW, ALL = "high-dynamic", "low-dynamic", "all"
CONTRAST = f"{HIGH} minus {LOW}"
RELATIVE = ("relative", "sd", "low", "high")


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
    pairs = [(clip, t) for clip in sorted(clips, key=lambda c: len(c.features)) for t in timesteps]
    batches = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    joints, rows = LossWeights(acc=1.0, acc_variant="joints"), []
    with torch.inference_mode():
        for batch in tqdm(batches, desc="losses", mininterval=2, disable=not progress):
            x0, noise, mask = (x.to(device) for x in _pad(denoise, batch, seed))
            t = torch.tensor([timestep for _, timestep in batch], device=device)
            x0_hat = denoise([clip for clip, _ in batch], x0, mask, t, noise)
            guesses = {MODEL: x0_hat}
            if references:
                smooth, frozen = smooth_in_time(x0_hat, mask), freeze_in_time(x0_hat, mask)
                guesses |= {GAUSSIAN: smooth, CONSTANT: frozen}
            for estimate, guess in guesses.items():
                given = x0, guess, mask
                terms = motion_losses(*given, LossWeights(), denoise.normaliser, all_terms=True)
                terms["acc_joints"] = motion_losses(*given, joints, denoise.normaliser)["acc"]
                losses = torch.stack([terms[name] for name in TERMS], 1).double().tolist()
                rows += [
                    (clip.name, timestep, estimate, int(frames), *values)
                    for (clip, timestep), frames, values in zip(
                        batch, mask.sum(1).tolist(), losses, strict=True
                    )
                ]
    table = pd.DataFrame(rows, columns=["clip", "timestep", "estimate", "frames", *TERMS])
    table["estimate"] = pd.Categorical(table["estimate"], ESTIMATES)
    return table.sort_values(["clip", "timestep", "estimate"], ignore_index=True)


def _pad(
    denoise: Denoiser, batch: list[tuple[MotionClip, int]], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    ends = [min(len(clip.features), denoise.max_frames) for clip, _ in batch]
    ends = [end // denoise.stride * denoise.stride for end in ends]
    x0, noise = [], []
    for (clip, t), end in zip(batch, ends, strict=True):
        features = torch.as_tensor(clip.features[:end], dtype=torch.float32)
        x0.append(denoise.normaliser.normalise(features))
        noise.append(torch.from_numpy(common_noise(clip.name, t, seed, end)))
    mask = torch.arange(max(ends)) < torch.tensor(ends)[:, None]
    return pad_sequence(x0, batch_first=True), pad_sequence(noise, batch_first=True), mask


def paired_difference(
    before: pd.DataFrame | Sequence[pd.DataFrame],
    after: pd.DataFrame | Sequence[pd.DataFrame],
    groups: pd.DataFrame,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Change of L_acc from one model to another, per category, with 95 % intervals.

    A clip's loss is its mean over timesteps; a group's is the mean over its clips. Intervals are of
    a paired bootstrap over units and, where there are several, over seeds (`stats.over_seeds`).

    Args:
        before, after: rows of one estimate of `clip_losses`, for the same clips and timesteps; or
            one such table for each seed, in the same order.
        groups: ``clip``, ``category`` and ``unit`` (the trial that a clip was cut from); only the
            clips in it count.

    Returns:
        Rows: the categories that there are, then high-dynamic, low-dynamic and all clips, and
        `CONTRAST`: how much more, in shares, the loss changed in high- than in low-dynamic clips.
        Columns: ``group``; numbers of ``clips``, ``units`` and ``seeds``;
        ``before``, ``after`` and ``delta``, means over seeds, with ``delta_low``, ``delta_high``;
        ``relative`` (delta / before), its ``sd`` over seeds, ``low`` and ``high``; ``median``, over
        units, of a unit's own relative change, which one wild trial cannot sway as it does the
        mean; and ``effect_size``, Cohen's d_z (Lakens 2013, doi:10.3389/fpsyg.2013.00863): mean /
        standard deviation of the units' changes. Fewer than `FEWEST` units have no interval and no
        effect size.
    """
    tables = [[x] if isinstance(x, pd.DataFrame) else list(x) for x in (before, after)]
    means = [t.groupby("clip")["acc"].mean() for t in [*tables[0], *tables[1]]]
    if not all(mean.index.equals(means[0].index) for mean in means):
        raise InputError(
            "before, after", "other clips in one than in the other", "the same clips",
            "Evaluate all models on the same clips: run notebook 05 for them again.",
        )  # fmt: skip
    table = groups[groups["clip"].isin(means[0].index)]
    values = pd.concat(means, axis=1).loc[table["clip"]].to_numpy()
    count, rows, shares = len(tables[0]), [], {}
    high = table["category"].isin(HIGH_DYNAMIC).to_numpy()
    masks = {name: (table["category"] == name).to_numpy() for name in CATEGORIES}
    masks |= {HIGH: high, LOW: ~high, ALL: np.ones(len(table), bool)}
    for name, chosen in ((name, mask) for name, mask in masks.items() if mask.any()):
        own, unit = values[chosen], table["unit"].to_numpy()[chosen]
        of_units = pd.DataFrame(own).groupby(unit).mean().to_numpy()
        enough = len(of_units) >= FEWEST
        drawn = bootstrap_means(own, unit, draws if enough else 0, stream(seed, name))
        old, new = drawn[:, :count], drawn[:, count:]
        shares[name] = new / old - 1
        first, second = of_units[:, :count], of_units[:, count:]
        moved = (second - first).mean(1)
        delta, _, delta_low, delta_high = over_seeds(new - old, seed)
        row = {"group": name, "clips": len(own), "units": len(of_units), "seeds": count}
        row |= {"before": old[0].mean(), "after": new[0].mean()}
        row |= {"delta": delta, "delta_low": delta_low, "delta_high": delta_high}
        row |= dict(zip(RELATIVE, over_seeds(shares[name], seed), strict=True))
        row["median"] = np.median((second / first - 1).mean(1))
        spread = moved.std(ddof=1) if enough else 0.0
        rows.append(row | {"effect_size": moved.mean() / spread if spread > 0 else np.nan})
    if HIGH in shares and LOW in shares:
        fewer = min(len(shares[HIGH]), len(shares[LOW]))  # one row where either has few units
        contrast = over_seeds(shares[HIGH][:fewer] - shares[LOW][:fewer], seed)
        row = {"group": CONTRAST, "clips": len(table), "units": table["unit"].nunique()}
        rows.append(row | {"seeds": count} | dict(zip(RELATIVE, contrast, strict=True)))
    return pd.DataFrame(rows)


def with_references(losses: Mapping[str, pd.DataFrame], base: str) -> pd.DataFrame:
    """Mean losses of each model, and of what a filter and a frozen pose make of the base's x̂₀.

    losses: tables of `clip_losses` with references, by model. base: the model whose predictions the
    references are made of.
    """
    shown, chosen = ["simple", "acc", "acc_joints"], {m: (x, MODEL) for m, x in losses.items()}
    chosen[f"x̂₀ of {base} through a Gaussian, σ = 1 frame"] = losses[base], GAUSSIAN
    chosen[f"x̂₀ of {base}, frozen"] = losses[base], CONSTANT
    rows = {n: x.loc[x["estimate"] == kind, shown].mean() for n, (x, kind) in chosen.items()}
    table = pd.DataFrame(rows).T
    return table.assign(acc_against_base=table["acc"] / table.loc[base, "acc"] - 1)


def as_metrics(
    losses: pd.DataFrame,
    changes: Mapping[str, pd.DataFrame],
    against: Mapping[str, pd.DataFrame],
    moving: pd.DataFrame,
) -> dict:
    """What `run.json` and `results.json` keep: changes from base and control, sampled motion.

    losses: `with_references`. changes: from the base to each other model (`paired_difference`).
    against: from the control to each refined model. moving: `motions.compare`.
    """

    def numbers(table: pd.DataFrame, key: str) -> dict:
        return table.set_index(key).astype(float).to_dict("index")

    everything = moving[moving["category"] == ALL].drop(columns="category")
    return {
        "losses": losses.astype(float).to_dict("index"),
        "from_base": {model: numbers(table, "group") for model, table in changes.items()},
        "from_control": {model: numbers(table, "group") for model, table in against.items()},
        "sampled": numbers(everything, "model"),
    }
