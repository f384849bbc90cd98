"""Activity recognition with DeepConvLSTM (Ordóñez & Roggen 2016), trained on virtual sensors.

Kept from that paper: four convolutions along time shared by all channels, two LSTM layers,
dropout, a softmax on the last step. Chosen here: Adam, early stopping on held-out *training*
motions, and balanced epochs (see `HarConfig`); the real recordings that a model is tested on
never take part in any choice.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from tqdm.auto import tqdm

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.deepconvlstm import DeepConvLSTM


@dataclass(frozen=True)
class HarConfig:
    """Size and budget of a classifier; the defaults are the sizes of the paper.

    Each epoch draws `windows_per_class` windows of every class, without repetition as long as
    they last, so that classes weigh the same and an epoch costs the same whatever the set; None
    draws as many as an average class has. `validation` is the share of groups held out of
    training; training stops after `patience` epochs without a better validation loss, and the
    best epoch is kept.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    filters: int = 64
    units: int = 128
    dropout: float = 0.5
    windows_per_class: int | None = None
    validation: float = 0.1
    patience: int = 5


@dataclass(frozen=True)
class Classifier:
    """A trained network with the standardisation of its training windows.

    `history` has one row an epoch: ``epoch``, ``train_loss``, ``validation_loss``,
    ``validation_accuracy`` (balanced).
    """

    network: DeepConvLSTM
    mean: Float[np.ndarray, "C"]
    std: Float[np.ndarray, "C"]
    classes: tuple[str, ...]
    history: pd.DataFrame

    def standardise(self, x: Float[np.ndarray, "n T C"]) -> Float[Tensor, "n T C"]:
        """Per channel, by the training windows; a missing channel (NaN) becomes its mean, 0."""
        scaled = (np.asarray(x, dtype=np.float32) - self.mean) / self.std
        return torch.from_numpy(np.nan_to_num(scaled, nan=0.0).astype(np.float32))


def _check(x: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    if x.ndim != 3 or len(x) != len(labels) or not len(x):
        raise InputError(
            "windows", f"shape {x.shape} with {len(labels)} labels", "(n, T, C), n > 0, n labels",
            "Take both from one call of `windows`.",
        )  # fmt: skip
    if np.isinf(x).any() or np.isnan(x).any():
        raise InputError(
            "windows", f"{int((~np.isfinite(x)).any((1, 2)).sum())} windows with NaN or infinity",
            "finite training windows", "Leave these windows out of training.",
        )  # fmt: skip
    unknown = sorted(map(str, set(labels) - set(classes)))
    absent = [name for name in classes if name not in set(labels)]
    if unknown or absent:
        raise InputError(
            "labels",
            f"unknown {unknown}, absent {absent}",
            f"windows of each of {list(classes)}, and of nothing else",
            "Choose classes that the training set has.",
        )


def balanced_rows(
    target: Int[np.ndarray, "n"], per_class: int, rng: np.random.Generator
) -> Int[np.ndarray, "m"]:
    """Row numbers of one epoch: `per_class` of each class, shuffled, repeating as little as can be.

    A class with fewer windows goes round: every window is drawn before any is drawn again.
    """
    chosen = []
    for label in np.unique(target):
        rows = np.flatnonzero(target == label)
        rounds = -(-per_class // len(rows))
        chosen.append(np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:per_class])
    return rng.permutation(np.concatenate(chosen))


def _scores(network: nn.Module, x: Tensor, device: torch.device, batch_size: int = 64) -> Tensor:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(part.to(device)).cpu() for part in x.split(batch_size)])


def train_classifier(
    x: Float[np.ndarray, "n T C"],
    y: Sequence[str],
    classes: Sequence[str],
    config: HarConfig,
    groups: Sequence | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Classifier:
    """Train a DeepConvLSTM; the same arguments give the same weights (on one kind of machine).

    Args:
        x: windows of virtual (or, for the reference line, real) sensors, m/s² and rad/s.
        y: their classes.
        groups: the motion (or recording, or subject) that each window comes from, so that
            overlapping windows, and one motion on eight bodies, fall on one side of the split.
    """
    x, labels = np.asarray(x, dtype=np.float32), np.asarray(y)
    _check(x, labels, classes)
    target = pd.Categorical(labels, categories=list(classes)).codes.astype(np.int64)
    rng = np.random.default_rng(config.seed)
    parts = np.arange(len(x)) if groups is None else np.asarray(groups)
    fit, held = _hold_out(target, parts, config)
    mean, std = x[fit].mean((0, 1)), x[fit].std((0, 1))
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        network = DeepConvLSTM(
            x.shape[2], len(classes), config.filters, config.units, config.dropout
        ).to(device)
        start = Classifier(
            network, mean, np.where(std > 0, std, 1).astype(np.float32), tuple(classes),
            pd.DataFrame(),
        )  # fmt: skip
        history = _optimise(start, x, target, fit, held, config, rng, device, progress)
    return replace(start, history=history)


def _hold_out(
    target: np.ndarray, groups: np.ndarray, config: HarConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to validate on: whole groups, as long as training keeps every class.

    A class that only the held-out groups have is trained on and not validated.
    """
    folds = min(round(1 / config.validation), len(np.unique(groups)), np.bincount(target).max())
    splits = []
    if folds > 1:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            splits = list(splitter.split(target, target, groups))
    kept = [np.isin(target[held], target[fit]) for fit, held in splits]
    best = max(range(len(splits)), key=lambda i: kept[i].mean(), default=None)
    if best is None or not kept[best].any():
        raise InputError(
            "groups", "no group without which training still has its classes",
            "at least two groups of a class",
            "Give more motions (or recordings), or check that a group is one of them.",
        )  # fmt: skip
    fit, held = splits[best]
    return np.concatenate([fit, held[~kept[best]]]), held[kept[best]]


def _optimise(
    classifier: Classifier,
    x: np.ndarray,
    target: np.ndarray,
    fit: np.ndarray,
    held: np.ndarray,
    config: HarConfig,
    rng: np.random.Generator,
    device: torch.device,
    progress: bool,
) -> pd.DataFrame:
    """Run the epochs and leave the best one's weights in the network."""
    network, count = classifier.network, len(classifier.classes)
    data, truth = classifier.standardise(x), torch.from_numpy(target)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
    # Each class counts the same in validation too, whatever the split left of it.
    share = np.bincount(target[held], minlength=count)
    weight = torch.from_numpy(1.0 / np.maximum(share, 1)).float()
    per_class = config.windows_per_class or max(1, len(fit) // count)
    best, best_loss, rows = copy.deepcopy(network.state_dict()), float("inf"), []
    bar = tqdm(range(config.epochs), desc="DeepConvLSTM", mininterval=2, disable=not progress)
    for epoch in bar:
        network.train()
        losses = []
        order = fit[balanced_rows(target[fit], per_class, rng)]
        for batch in np.array_split(order, -(-len(order) // config.batch_size)):
            scores = network(data[batch].to(device))
            loss = nn.functional.cross_entropy(scores, truth[batch].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        scores = _scores(network, data[held], device)
        held_loss = float(nn.functional.cross_entropy(scores, truth[held], weight=weight))
        rows.append(
            {
                "epoch": epoch,
                "train_loss": float(np.mean(losses)),
                "validation_loss": held_loss,
                "validation_accuracy": _balanced_accuracy(target[held], scores.argmax(1).numpy()),
            }
        )
        if held_loss < best_loss:
            best, best_loss, waited = copy.deepcopy(network.state_dict()), held_loss, 0
        else:
            waited += 1
            if waited >= config.patience:
                break
    network.load_state_dict(best)
    return pd.DataFrame(rows)


def predict(
    classifier: Classifier,
    x: Float[np.ndarray, "n T C"],
    missing: Literal["error", "mean"] = "error",
) -> np.ndarray:
    """Class of each window, (n,) strings.

    Args:
        missing: what to do with NaN (a position that was not recorded): refuse, or replace it by
            the training mean of its channel.
    """
    x = np.asarray(x)
    if x.ndim != 3 or x.shape[2] != len(classifier.mean):
        raise InputError(
            "windows", f"shape {x.shape}", f"(n, T, {len(classifier.mean)})",
            "Cut windows with the channels and sites of training.",
        )  # fmt: skip
    bad = int((~np.isfinite(x)).any((1, 2)).sum())
    if bad and missing == "error":
        raise InputError(
            "windows", f"{bad} windows with missing values", "finite windows",
            'Leave them out, or pass missing="mean".',
        )  # fmt: skip
    device = next(classifier.network.parameters()).device
    scores = _scores(classifier.network, classifier.standardise(x), device)
    return np.asarray(classifier.classes)[scores.argmax(1).numpy()]


def _balanced_accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean recall over the classes that occur in `truth`."""
    return float(np.mean([(found[truth == label] == label).mean() for label in np.unique(truth)]))


@dataclass(frozen=True)
class Scores:
    """What a classifier reached on a test set.

    Attributes:
        balanced_accuracy: mean of the recalls of the classes that occur in the test set, in 0..1.
        recall: by class, NaN where the test set has none.
        confusion: counts, true class by row, predicted class by column.
        by_subject: ``subject``, ``windows``, ``classes`` (that the subject has),
            ``balanced_accuracy``.
    """

    balanced_accuracy: float
    recall: pd.Series
    confusion: pd.DataFrame
    by_subject: pd.DataFrame


def evaluate(
    y_true: Sequence[str],
    y_pred: Sequence[str],
    subjects: Sequence,
    classes: Sequence[str],
) -> Scores:
    """Balanced accuracy, recalls and confusion, over all windows and for each subject."""
    truth, found, subjects = (np.asarray(values) for values in (y_true, y_pred, subjects))
    unknown = sorted(map(str, (set(truth) | set(found)) - set(classes)))
    if unknown or not len(truth) == len(found) == len(subjects) or not len(truth):
        raise InputError(
            "labels", f"{len(truth)} true, {len(found)} predicted, unknown {unknown}",
            f"equally many, of {list(classes)}", "Choose windows of the trained classes.",
        )  # fmt: skip
    counts = confusion_matrix(truth, found, labels=list(classes))
    total = counts.sum(1)
    recall = np.where(total > 0, np.diag(counts) / np.maximum(total, 1), np.nan)
    by_subject = [
        {
            "subject": subject,
            "windows": int((rows := subjects == subject).sum()),
            "classes": len(set(truth[rows])),
            "balanced_accuracy": _balanced_accuracy(truth[rows], found[rows]),
        }
        for subject in np.unique(subjects)
    ]
    return Scores(
        _balanced_accuracy(truth, found),
        pd.Series(recall, index=list(classes), name="recall"),
        pd.DataFrame(counts, index=list(classes), columns=list(classes)),
        pd.DataFrame(by_subject),
    )


def train_on_real(
    x: Float[np.ndarray, "n T C"],
    y: Sequence[str],
    subjects: Sequence,
    classes: Sequence[str],
    config: HarConfig,
    folds: int = 5,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> np.ndarray:
    """The reference line: train and test on real recordings, no subject on both sides.

    Windows with missing channels are tested, by `predict` with ``missing="mean"``, but not
    trained on. A class that only the subjects of one fold have is not recognised there.

    Returns:
        The class of every window, predicted by a model that never saw its subject.
    """
    x, labels, subjects = np.asarray(x), np.asarray(y), np.asarray(subjects)
    if len(np.unique(subjects)) < folds:
        raise InputError(
            "subjects", f"{len(np.unique(subjects))}", f"at least {folds}, one a fold", "Lower it."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed)
    whole = np.isfinite(x).all((1, 2))
    found = np.empty(len(labels), dtype=object)
    for fit, test in splitter.split(x, labels, subjects):
        fit = fit[whole[fit]]
        known = [name for name in classes if name in labels[fit]]
        model = train_classifier(
            x[fit], labels[fit], known, config, subjects[fit], device, progress
        )
        found[test] = predict(model, x[test], missing="mean")
    return found.astype(str)
