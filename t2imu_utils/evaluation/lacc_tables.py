"""Tables, sentences and metrics made of the losses of notebook 05."""

import numpy as np
import pandas as pd

from t2imu_utils.evaluation.lacc import ALL, CONSTANT, GAUSSIAN, MODEL, paired_difference

READINGS = ["simple", "acc", "acc_joints"]
REFERENCES = {GAUSSIAN: "x̂₀ of {} through a Gaussian, σ = 1 frame", CONSTANT: "x̂₀ of {}, frozen"}


def with_references(losses: dict[str, pd.DataFrame], base: str) -> pd.DataFrame:
    """Mean losses of each model, and of what a filter and a frozen pose make of the base's x̂₀.

    Args:
        losses: tables of `lacc.clip_losses` with references, by model.
        base: the model whose predictions the references are made of.
    """
    rows = {
        model: table.loc[table["estimate"] == MODEL, READINGS].mean()
        for model, table in losses.items()
    }
    for estimate, name in REFERENCES.items():
        table = losses[base]
        rows[name.format(base)] = table.loc[table["estimate"] == estimate, READINGS].mean()
    table = pd.DataFrame(rows).T
    return table.assign(acc_against_base=table["acc"] / table.loc[base, "acc"] - 1)


def by_split(
    before: pd.DataFrame, after: pd.DataFrame, groups: pd.DataFrame, draws: int
) -> dict[str, pd.DataFrame]:
    """`lacc.paired_difference` for each test split by itself; arguments as there."""
    found = {}
    for split, part in groups.groupby("split", sort=False):
        tables = (table[table["clip"].isin(part["clip"])] for table in (before, after))
        found[split] = paired_difference(*tables, part, draws=draws)
    return found


def in_words(model: str, control: str, change: pd.DataFrame) -> str:
    """Whether a model's L_acc is below the control's, and whether chance could explain it.

    Args:
        change: `lacc.paired_difference` from the control to the model.
    """
    row = change.set_index("group").loc[ALL]
    low, high = row["relative_low"], row["relative_high"]
    about = f"L_acc of {model} against {control}: {row['relative']:+.1%}"
    if np.isnan(low):
        return f"{about}, {row['clips']:.0f} clips. One trial alone has no interval."
    about += f" [{low:+.1%}, {high:+.1%}], {row['clips']:.0f} clips of {row['units']:.0f} trials"
    if high < 0:
        return f"{about}. Lower, and the 95 % interval excludes zero."
    if low > 0:
        return f"{about}. Higher, and the 95 % interval excludes zero."
    return f"{about}. The 95 % interval includes zero: no difference is shown."


def as_metrics(
    losses: pd.DataFrame,
    changes: dict[str, pd.DataFrame],
    against: dict[str, pd.DataFrame],
    moving: pd.DataFrame,
) -> dict:
    """What `run.json` and `results.json` keep: changes from base and control, sampled motion.

    Args:
        losses: `with_references`.
        changes: from the base to each other model (`lacc.paired_difference`).
        against: from the control to each refined model.
        moving: `sampled.compare`.
    """
    everything = moving[moving["category"] == "all"].set_index("model").drop(columns="category")
    return {
        "losses": losses.astype(float).to_dict("index"),
        "from_base": {model: _records(table) for model, table in changes.items()},
        "from_control": {model: _records(table) for model, table in against.items()},
        "sampled": everything.astype(float).to_dict("index"),
    }


def _records(table: pd.DataFrame) -> dict:
    return table.set_index("group").astype(float).to_dict("index")
