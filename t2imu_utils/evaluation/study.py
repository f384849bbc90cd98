"""What L_acc does over several seeds: changes of the loss, with intervals (notebook 08).

Every arm is held against its control, clip by clip: the same seed and the same other losses
without L_acc. So what training on does without L_acc is not counted as the doing of L_acc.

Seeds and trials are crossed: each seed is evaluated on the same trials. Both are resampled, and
one sample of trials serves all seeds (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122).
A bootstrap over few seeds is too narrow; what the drawn seeds deviate by is stretched until it
would alone give Student's interval (`stretch`; Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
With one seed that part is absent: the interval then says nothing of other seeds.

Arms are named as models are (`arm_names`), without the seed. "gaussian" and "constant" are no
arms: they are what a filter of one line and a frozen pose make of the reference's own x̂_0.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import norm, t

from t2imu_utils import runs
from t2imu_utils.activities import CATEGORIES, HIGH_DYNAMIC
from t2imu_utils.arm_names import base_of, control_of, is_base, model_name, model_order, parse
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.lacc import ALL, CONSTANT, GAUSSIAN, HIGH, LOW, MODEL, bootstrap_means
from t2imu_utils.evaluation.spectra import FEWEST, TAILS
from t2imu_utils.palette import label
from t2imu_utils.tracks import Track

STAGE = "05_lacc_analysis"
CONTROL, BASE = "control", "base"  # what a model may be held against
CONTRAST = f"{HIGH} minus {LOW}"
TRIVIAL = (GAUSSIAN, CONSTANT)
KEYS = ["generator", "reference", "arm", "split", "group"]

Losses = Mapping[str, pd.DataFrame]


def load_losses(track: Track) -> dict[str, pd.DataFrame]:
    """Losses of every model of the grid that has them (`lacc.clip_losses`), by name."""
    found = {}
    for model in runs.finished_models(track.name, STAGE):
        outputs = runs.require_run(track.name, model, STAGE)["outputs"]
        if parse(model) and outputs:  # motions that were made elsewhere have no losses
            folder = runs.finished_dir(track.name, model, STAGE)
            found[model] = pd.read_parquet(folder / "losses.parquet")
    return found


def arm_of(model: str) -> str:
    """The name of a model without its seed: what it shares with those of other seeds."""
    return re.sub(r"-s\d+$", "", model)


def plain_control(model: str) -> str:
    """The control with L_simple alone of a model's seed."""
    name = parse(model)
    return model_name(0, seed=name.seed, generator=name.generator)


@cache
def stretch(seeds: int) -> float:
    """Factor by which the bootstrap's deviations of a mean of so few values are too small."""
    if seeds < 2:
        return 0.0
    tails = t.ppf(TAILS[1] / 100, seeds - 1) / norm.ppf(TAILS[1] / 100)
    return float(tails * np.sqrt(seeds / (seeds - 1)))


@dataclass(frozen=True, eq=False)
class _Comparison:
    """An arm held against its reference: for each seed the columns before and after."""

    generator: str
    reference: str
    arm: str
    seeds: tuple[int, ...]
    before: list[int]
    after: list[int]


def changes_by_seed(losses: Losses, groups: pd.DataFrame, value: str = "acc") -> pd.DataFrame:
    """Relative change of a loss in each seed: columns ``generator``, ``reference``, ``arm``,
    ``split``, ``group``, ``seed`` and ``relative``. Arguments as of `change_over_seeds`.
    """
    rows = []
    for means, comparisons in _by_generator(losses, value):
        for split, group, chosen in _selections(means, groups):
            mean = means.loc[chosen.index].to_numpy().mean(0)
            for c in comparisons:
                relative = mean[c.after] / mean[c.before] - 1
                key = (c.generator, c.reference, c.arm, split, group)
                rows += [(*key, *pair) for pair in zip(c.seeds, relative, strict=True)]
    return pd.DataFrame(rows, columns=[*KEYS, "seed", "relative"])


def change_over_seeds(
    losses: Losses,
    groups: pd.DataFrame,
    draws: int = 2000,
    seed: int = 0,
    value: str = "acc",
) -> pd.DataFrame:
    """Relative change of a loss from a reference to each arm: mean over seeds, interval, size.

    A clip's loss is its mean over timesteps, a group's the mean over its clips; a seed's change is
    that of the group's mean. The reference "control" is the one of the same seed; "base" is the
    generator before it was trained on, the same for all seeds. An arm without a control of its
    seed is not compared with one in that seed (`sweep.lacking` tells which are missing).

    Args:
        losses: tables of `lacc.clip_losses` by model, at least base or control of each generator.
        groups: ``clip``, ``split``, ``category``, ``unit`` (`data.test_clips`): the trial that a
            clip was cut from.
        value: the loss.

    Returns:
        Columns `KEYS`, with ``split`` "all" or one of the test splits and ``group`` a category,
        "high-dynamic", "low-dynamic", "all" or `CONTRAST`; ``clips``, ``units`` and ``seeds``
        (numbers); ``before`` and ``after`` (means over seeds); ``relative``; ``sd`` over seeds (NaN
        for one); ``low``, ``high`` (95 %); ``median``, over trials, of a trial's own relative
        change, which one wild trial cannot sway as it does the mean; and ``effect_size``, Cohen's
        d_z (Lakens 2013, doi:10.3389/fpsyg.2013.00863): over trials, mean of the differences
        averaged over seeds, divided by their standard deviation. Fewer than `spectra.FEWEST` trials
        have no interval and no effect size. Of the contrast ``relative`` is a difference of shares,
        and the last two are NaN.

    Raises:
        InputError: models of a generator were not evaluated on the same clips and timesteps, or a
            clip has no row, or two, in `groups`.
    """
    rows = []
    for means, comparisons in _by_generator(losses, value):
        ends: dict[tuple, dict[str, np.ndarray]] = {}
        for split, group, chosen in _selections(means, groups):
            values, units = means.loc[chosen.index].to_numpy(), chosen["unit"].to_numpy()
            stream = [seed, zlib.crc32(group.encode())]
            drawn = values.mean(0, keepdims=True)
            if len(set(units)) >= FEWEST:
                drawn = np.concatenate([drawn, bootstrap_means(values, units, draws, stream)])
            for c in comparisons:
                relative = drawn[:, c.after] / drawn[:, c.before] - 1
                ends.setdefault((split, c), {})[group] = relative
                rows.append(
                    _key(c, split, group)
                    | {"clips": len(values), "units": len(set(units)), "seeds": len(c.seeds)}
                    | {"before": drawn[0, c.before].mean(), "after": drawn[0, c.after].mean()}
                    | _estimate(relative, seed)
                    | _of_trials(values[:, c.before], values[:, c.after], units)
                )
        rows += _contrasts(ends, seed, rows)
    columns = ["clips", "units", "seeds", "before", "after", "relative", "sd", "low", "high"]
    table = pd.DataFrame(rows, columns=[*KEYS, *columns, "median", "effect_size"])
    order = list(dict.fromkeys([*CATEGORIES, HIGH, LOW, CONTRAST, ALL]))
    place = table["group"].map(order.index)
    return table.assign(place=place).sort_values(
        ["generator", "reference", "arm", "split", "place"], kind="stable",
        key=lambda column: column.map(_rank) if column.name == "arm" else column,
    ).drop(columns="place").reset_index(drop=True)  # fmt: skip


def _key(c: _Comparison, split: str, group: str) -> dict[str, str]:
    return dict(zip(KEYS, (c.generator, c.reference, c.arm, split, group), strict=True))


def _rank(arm: str) -> tuple:
    return (1, arm) if arm in TRIVIAL else (0, model_order(arm))


def _by_generator(losses: Losses, value: str) -> Iterator[tuple[pd.DataFrame, list[_Comparison]]]:
    """Of each generator the mean loss of each clip (row) by model and estimate (column), and which
    columns are to be compared."""
    for generator in dict.fromkeys(base_of(model) for model in losses):
        own = {m: losses[m] for m in losses if base_of(m) == generator}
        means = _clip_means(own, value)
        columns = {column: at for at, column in enumerate(means.columns)}
        pairs: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for model in own:
            # A base and a control are references, of which trivial estimates are made.
            for estimate in TRIVIAL:
                at = columns.get((model, estimate))
                if at is not None and model in (generator, plain_control(model)):
                    key = (BASE if is_base(model) else CONTROL, estimate)
                    place = parse(model).seed, columns[model, MODEL], at
                    pairs.setdefault(key, []).append(place)
            references = {BASE: generator, CONTROL: control_of(model)}
            for name, reference in references.items():
                if not is_base(model) and reference in own and reference != model:
                    place = (columns[reference, MODEL], columns[model, MODEL])
                    pairs.setdefault((name, arm_of(model)), []).append((parse(model).seed, *place))
        comparisons = []
        for (reference, arm), found in pairs.items():
            seeds, before, after = zip(*sorted(found), strict=True)
            comparisons.append(
                _Comparison(generator, reference, arm, seeds, list(before), list(after))
            )
        yield means, comparisons


def _clip_means(own: Losses, value: str) -> pd.DataFrame:
    keys, first, parts = ["clip", "timestep", "estimate"], None, {}
    for model, table in own.items():
        rows = table[table["estimate"] == MODEL][keys[:2]]
        rows = pd.MultiIndex.from_frame(rows).sort_values()
        first = rows if first is None else first
        if not rows.is_unique or not rows.equals(first):
            raise InputError(
                f"losses of {model}",
                "a clip and timestep twice" if not rows.is_unique else f"{len(rows)} rows",
                f"the same clips and timesteps as {next(iter(own))}, each once",
                "Evaluate all models of a generator alike: run notebook 05 for them again.",
            )
        means = table.groupby(["clip", "estimate"], observed=True)[value].mean().unstack()
        parts |= {(model, estimate): means[estimate] for estimate in means}
    return pd.DataFrame(parts)


def _selections(
    means: pd.DataFrame, groups: pd.DataFrame
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Split, group, and the rows of `groups` in both, by clip."""
    table = groups.set_index("clip")
    missing = means.index.difference(table.index)
    if len(missing) or not table.index.is_unique:
        raise InputError(
            "groups: clip",
            f"no row for {', '.join(missing[:3])}" if len(missing) else "a clip twice",
            "one row for each clip that was evaluated",
            "Categorise all clips (`data.test_clips`).",
        )
    table = table.loc[means.index]
    high = table["category"].isin(HIGH_DYNAMIC)
    kinds = {name: table["category"] == name for name in CATEGORIES}
    kinds |= {HIGH: high, LOW: ~high, ALL: pd.Series(True, table.index)}
    everywhere = {ALL: pd.Series(True, table.index)}
    splits = {name: table["split"] == name for name in dict.fromkeys(groups["split"])}
    for split, inside in (everywhere | splits).items():
        for group, alike in kinds.items():
            if (inside & alike).any():
                yield split, group, table[inside & alike]


def _estimate(relative: Float[np.ndarray, "1+D S"], seed: int) -> dict[str, float]:
    """Mean over seeds and its interval; the first row is the whole sample."""
    count = relative.shape[1]
    found = {
        "relative": relative[0].mean(),
        "sd": relative[0].std(ddof=1) if count > 1 else np.nan,
        "low": np.nan,
        "high": np.nan,
    }
    if len(relative) > 1:
        of_trials = relative[1:].mean(1)
        # The same samples of seeds for all groups, so that groups can be held against each other.
        picks = np.random.default_rng([seed, count]).multinomial(
            count, np.full(count, 1 / count), size=len(of_trials)
        )
        of_both = (relative[1:] * picks).sum(1) / count
        samples = of_trials + stretch(count) * (of_both - of_trials)
        found["low"], found["high"] = np.percentile(samples, TAILS)
    return found


def _of_trials(
    before: Float[np.ndarray, "n S"], after: Float[np.ndarray, "n S"], units: np.ndarray
) -> dict[str, float]:
    code = np.unique(units, return_inverse=True)[1]
    member = (code == np.arange(code.max() + 1)[:, None]).astype(float)
    member /= member.sum(1, keepdims=True)
    first, second = member @ before, member @ after
    delta = (second - first).mean(1)
    spread = delta.std(ddof=1) if len(delta) >= FEWEST else 0.0
    return {
        "median": float(np.median((second / first - 1).mean(1))),
        "effect_size": delta.mean() / spread if spread > 0 else np.nan,
    }


def _contrasts(ends: dict[tuple, dict[str, np.ndarray]], seed: int, rows: list[dict]) -> list[dict]:
    """How much more, in shares, a loss changed in high- than in low-dynamic clips."""
    known = {tuple(row[key] for key in KEYS): row for row in rows}
    found = []
    for (split, c), parts in ends.items():
        if HIGH not in parts or LOW not in parts:
            continue
        high, low = (known[tuple(_key(c, split, g).values())] for g in (HIGH, LOW))
        length = min(len(parts[HIGH]), len(parts[LOW]))  # 1 where either has too few trials
        found.append(
            _key(c, split, CONTRAST)
            | {name: high[name] + low[name] for name in ("clips", "units")}
            | {
                "seeds": len(c.seeds),
                "before": np.nan,
                "after": np.nan,
                "median": np.nan,
                "effect_size": np.nan,
            }
            | _estimate(parts[HIGH][:length] - parts[LOW][:length], seed)
        )
    return found


def by_timestep(losses: Losses, value: str = "acc") -> pd.DataFrame:
    """A loss at each noise level, and its relative change from the control of the same seed.

    Returns:
        Columns ``generator``, ``arm`` (models without their seed, and "gaussian", "constant" of the
        base), ``timestep``, ``mean`` over clips and seeds, ``sd`` over seeds, ``seeds``, and
        ``relative``, ``relative_sd`` (NaN for base and control).
    """
    means = {}
    for model, table in losses.items():
        for estimate in (MODEL, *TRIVIAL) if is_base(model) else (MODEL,):
            own = table[table["estimate"] == estimate]
            if len(own):
                name = model if estimate == MODEL else estimate
                means[base_of(model), name] = own.groupby("timestep")[value].mean()
    rows = []
    for (generator, model), mean in means.items():
        control = means.get((generator, control_of(model)))
        compared = control is not None and model != control_of(model) and not is_base(model)
        relative = mean / control - 1 if compared else mean * np.nan
        arm, place = (model if model in TRIVIAL else arm_of(model)), {"generator": generator}
        rows.append(pd.DataFrame({"mean": mean, "relative": relative}).assign(arm=arm, **place))
    keys = ["generator", "arm", "timestep"]
    grouped = pd.concat(rows).reset_index().groupby(keys, sort=False)
    table = grouped.agg(
        mean=("mean", "mean"), sd=("mean", "std"), seeds=("mean", "count"),
        relative=("relative", "mean"), relative_sd=("relative", "std"),
    )  # fmt: skip
    return table.reset_index()


def in_words(change: pd.DataFrame, group: str = ALL, split: str = ALL) -> str:
    """A plain sentence for each arm and reference of `change_over_seeds`, in one group and split.

    Whether the loss is lower is said of arms only where the interval excludes zero.
    """
    own = change[(change["group"] == group) & (change["split"] == split)]
    return "\n".join(_sentence(row) for row in own.itertuples(index=False))


def _sentence(row) -> str:
    name = label(row.arm) if row.arm not in TRIVIAL else TRIVIAL_WORDS[row.arm]
    against = "the control of the same seed" if row.reference == CONTROL else "the base"
    seeds = f"{row.seeds} seeds, sd {100 * row.sd:.1f}" if row.seeds > 1 else "one seed"
    points = row.group == CONTRAST
    size = f"{100 * row.relative:+.1f} points" if points else f"{row.relative:+.1%}"
    text = f"{name} against {against}: {size}"
    about = f"{seeds}; {row.clips} clips of {row.units} trials"
    if np.isnan(row.low):
        return f"{text} ({about}: too few trials for an interval)."
    text += f" [{100 * row.low:+.1f}, {100 * row.high:+.1f}] ({about}"
    of_trials = f"; median trial {row.median:+.1%}, d_z = {row.effect_size:.2f})"
    text += of_trials if np.isfinite(row.effect_size) else ")"
    if row.low <= 0 <= row.high:
        return f"{text}. The 95 % interval includes zero: no difference is shown."
    direction = "lower" if row.high < 0 else "higher"
    if points:
        kind = "more" if row.high < 0 else "less"
        return f"{text}. It falls {kind} in high-dynamic motion."
    return f"{text}. L_acc is {direction}."


TRIVIAL_WORDS = {GAUSSIAN: "A Gaussian over its own x̂₀", CONSTANT: "Its own x̂₀, frozen"}
