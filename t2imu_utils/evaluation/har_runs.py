"""Repeated trainings of the classifier, and what can be read off them (Fig. 3).

Every training leaves a *count table*: how many windows of each subject and true class were taken
for which class. Balanced accuracy, recalls and confusion all follow from it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from t2imu_utils.evaluation.har import HarConfig, predict, train_classifier, train_on_real
from t2imu_utils.evaluation.tables import summarise_values
from t2imu_utils.evaluation.window_sets import WindowSet
from t2imu_utils.tracks import HarSection

COLUMNS = ["seed", "subject", "truth", "found"]


def har_config(section: HarSection, seed: int) -> HarConfig:
    """The track's classifier with one seed."""
    return HarConfig(
        epochs=section.epochs,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        seed=seed,
        filters=section.filters,
        units=section.units,
        windows_per_class=section.windows_per_class,
    )


def repeat(
    train: WindowSet,
    test: WindowSet,
    classes: Sequence[str],
    section: HarSection,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Train on synthetic windows and test on all real ones, once for each seed: a count table."""
    found = {}
    for seed in tqdm(seeds, "trainings", mininterval=2, disable=not progress):
        classifier = train_classifier(
            train.x,
            train.labels,
            classes,
            har_config(section, seed),
            train.groups,
            device,
            progress=False,
        )
        found[seed] = predict(classifier, test.x)
    return _counts(found, test)


def repeat_on_real(
    test: WindowSet,
    classes: Sequence[str],
    section: HarSection,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """The reference line: trained on real windows of other subjects, once for each seed."""
    found = {
        seed: train_on_real(
            test.x,
            test.labels,
            test.subjects,
            classes,
            har_config(section, seed),
            section.folds,
            device,
            progress=False,
        )
        for seed in tqdm(seeds, "trainings on real data", mininterval=2, disable=not progress)
    }
    return _counts(found, test)


def _counts(found: dict[int, np.ndarray], test: WindowSet) -> pd.DataFrame:
    rows = [
        pd.DataFrame(
            {"seed": seed, "subject": test.subjects, "truth": test.labels, "found": labels}
        )
        for seed, labels in found.items()
    ]
    return pd.concat(rows).groupby(COLUMNS).size().rename("windows").reset_index()


def recalls(counts: pd.DataFrame, by: Sequence[str] = ("seed",)) -> pd.DataFrame:
    """Share of each class's windows that were recognised: a row for each value of `by`."""
    keys = [*by, "truth"]
    total = counts.groupby(keys)["windows"].sum()
    right = counts[counts["truth"] == counts["found"]].groupby(keys)["windows"].sum()
    return (right.reindex(total.index, fill_value=0) / total).unstack("truth")


def balanced_accuracy(counts: pd.DataFrame, by: Sequence[str] = ("seed",)) -> pd.Series:
    """Mean recall over the classes that occur, for each value of `by`."""
    return recalls(counts, by).mean(axis=1)


def confusion(counts: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Shares of the true class (rows) that were taken for each class (columns), over all seeds."""
    table = counts.pivot_table("windows", "truth", "found", "sum", fill_value=0)
    table = table.reindex(index=classes, columns=classes, fill_value=0)
    return table.div(table.sum(axis=1).clip(lower=1), axis=0)


def summary(counts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Balanced accuracy of each generator: mean and standard deviation over seeds, and n."""
    values = {name: balanced_accuracy(table) for name, table in counts.items()}
    return pd.DataFrame({name: v.agg(["mean", "std", "count"]) for name, v in values.items()}).T


def recall_spread(counts: dict[str, pd.DataFrame], classes: Sequence[str]) -> pd.DataFrame:
    """Recall of each class by generator, over seeds: columns (class, "mean", "std" or "count")."""
    rows = {
        name: recalls(table).agg(["mean", "std", "count"]).T.stack()
        for name, table in counts.items()
    }
    return pd.DataFrame(rows).T.reindex(columns=list(classes), level=0)


def metrics(counts: pd.DataFrame) -> dict:
    """Balanced accuracy of every seed and recall of every class, for `run.json`."""
    accuracy = balanced_accuracy(counts)
    return {
        "balanced_accuracy": summarise_values(accuracy.tolist()),
        "seeds": accuracy.index.tolist(),
        "recall": recalls(counts).mean().to_dict(),
    }
