"""Activity recognition with DeepConvLSTM (Ordóñez & Roggen 2016), trained on virtual sensors.

Kept from that paper: four convolutions along time shared by all channels, two LSTM layers,
dropout, a softmax on the last step. Chosen here: Adam, early stopping on held-out *training*
motions, and balanced epochs (see `HarConfig`); the real recordings that a model is tested on
never take part in any choice.

Every training leaves a *count table*: how many windows of each subject and true class were taken
for which class. Balanced accuracy, recalls and confusion all follow from it, and what stands
beside the numbers of the paper.
"""

import copy
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from t2imu_utils import data, runs
from t2imu_utils.analysis.motions import best, score_motions
from t2imu_utils.analysis.signals import (
    FRAMES,
    RAW,
    Frame,
    Windows,
    WindowSet,
    labelled_windows,
    labels_of,
)
from t2imu_utils.analysis.stats import summary_of
from t2imu_utils.arms import BASE, model_order
from t2imu_utils.clips import Clips
from t2imu_utils.errors import InputError
from t2imu_utils.files import read_json
from t2imu_utils.imu.phone import FOLDER, SUFFIX, measured, read_sensor_model, sensor_parameters
from t2imu_utils.style import label
from t2imu_utils.tracks import PAPER_VALUES, SHIPPED, HarSection, RecordingsSection, Track

STAGE, SENSORS = "07_har", "04_imu_synthesis"
COLUMNS = ["seed", "subject", "truth", "found"]
OTHERS = ("remodiffuse", "momask")  # generators that the paper compares with
# What `results.json` takes over from a record.
KEPT = ("params", "metrics", "git", "versions", "device", "wall_seconds", "finished")


# ---------------------------------------------------------------- the classifier
class DeepConvLSTM(nn.Module):
    """Windows (B, T, C) to class scores (B, K).

    Four convolutions along time, the same for every channel and without padding (T shrinks by
    16); the maps of all channels then enter the LSTM step by step, and its last step is
    classified. Convolved as images of T rows and C columns, filters innermost in memory: the
    fastest of the layouts on a CPU, and that in which the LSTM reads them.
    """

    def __init__(self, channels: int, classes: int, filters: int, units: int, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Conv2d(filters if index else 1, filters, (5, 1)), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.lstm = nn.LSTM(filters * channels, units, 2, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B K"]:
        image = x[:, None].contiguous(memory_format=torch.channels_last)
        steps = self.convolutions(image).permute(0, 2, 3, 1).flatten(2)
        return self.head(self.dropout(self.lstm(self.dropout(steps))[0][:, -1]))


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
    """A trained network with the mean and deviation of its training windows by channel.

    `history` has one row an epoch: ``epoch``, ``train_loss``, ``validation_loss``.
    """

    network: nn.Module
    mean: Float[np.ndarray, "C"]
    std: Float[np.ndarray, "C"]
    classes: tuple[str, ...]
    history: pd.DataFrame


def balanced_rows(
    target: Int[np.ndarray, "n"], per_class: int, rng: np.random.Generator
) -> Int[np.ndarray, "m"]:
    """Row numbers of one epoch: `per_class` of each class, shuffled, repeating as little as can be.

    A class with fewer windows goes round: every window is drawn before any is drawn again.
    """
    chosen = []
    for code in np.unique(target):
        rows = np.flatnonzero(target == code)
        rounds = -(-per_class // len(rows))
        chosen.append(np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:per_class])
    return rng.permutation(np.concatenate(chosen))


def _scores(network: nn.Module, x: Tensor, device: torch.device, batch_size: int = 64) -> Tensor:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(part.to(device)).cpu() for part in x.split(batch_size)])


def train_classifier(
    x: Windows,
    y: Sequence[str],
    classes: Sequence[str],
    config: HarConfig,
    groups: Sequence | None = None,
    device: torch.device | str = "cpu",
    network: Callable[..., nn.Module] = DeepConvLSTM,
) -> Classifier:
    """Train a `network`; the same arguments give the same weights (on one kind of machine).

    Args:
        x: windows of virtual (or, for the reference line, real) sensors, m/s² and rad/s.
        y: their classes.
        groups: the motion (or recording, or subject) that each window comes from, so that
            overlapping windows, and one motion on eight bodies, fall on one side of the split.
        network: one of one's own, made of the same arguments as `DeepConvLSTM`.
    """
    x = np.asarray(x, dtype=np.float32)
    target = pd.Categorical(y, categories=list(classes)).codes.astype(np.int64)
    rng, device = np.random.default_rng(config.seed), torch.device(device)
    parts = np.arange(len(x)) if groups is None else np.asarray(groups)
    fit, held = _hold_out(target, parts, config)
    mean, std = x[fit].mean((0, 1)), x[fit].std((0, 1))
    std = np.where(std > 0, std, 1).astype(np.float32)
    signal, truth = torch.from_numpy((x - mean) / std), torch.from_numpy(target)
    # Each class counts the same in validation too, whatever the split left of it.
    share = np.bincount(target[held], minlength=len(classes))
    weight = torch.from_numpy(1.0 / np.maximum(share, 1)).float()
    per_class = config.windows_per_class or max(1, len(fit) // len(classes))
    rows: list[tuple[int, float, float]] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        sizes = config.filters, config.units, config.dropout
        network = network(x.shape[2], len(classes), *sizes).to(device)
        optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
        best_state, best_loss, waited = network.state_dict(), float("inf"), 0
        for epoch in range(config.epochs):
            network.train()
            losses = []
            order = fit[balanced_rows(target[fit], per_class, rng)]
            for batch in np.array_split(order, -(-len(order) // config.batch_size)):
                scores = network(signal[batch].to(device))
                loss = nn.functional.cross_entropy(scores, truth[batch].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
            scores = _scores(network, signal[held], device)
            held_loss = float(nn.functional.cross_entropy(scores, truth[held], weight=weight))
            rows.append((epoch, float(np.mean(losses)), held_loss))
            if held_loss < best_loss:
                best_state, best_loss, waited = copy.deepcopy(network.state_dict()), held_loss, 0
            elif (waited := waited + 1) >= config.patience:
                break
    network.load_state_dict(best_state)
    history = pd.DataFrame(rows, columns=["epoch", "train_loss", "validation_loss"])
    return Classifier(network, mean, std, tuple(classes), history)


def _hold_out(
    target: np.ndarray, groups: np.ndarray, config: HarConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to validate on: whole groups, as long as training keeps every class.

    A class that only the held-out groups have is trained on and not validated.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    folds = min(round(1 / config.validation), len(np.unique(groups)), np.bincount(target).max())
    splits = []
    if folds > 1:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            splits = list(splitter.split(target, target, groups))
    kept = [(np.isin(target[held], target[fit]), fit, held) for fit, held in splits]
    known, fit, held = max(kept, key=lambda split: split[0].mean(), default=3 * [np.empty(0, bool)])
    if not known.any():
        raise InputError(
            "groups", "no group without which training still has its classes",
            "at least two groups of a class",
            "Give more motions (or recordings), or check that a group is one of them.",
        )  # fmt: skip
    return np.concatenate([fit, held[~known]]), held[known]


def predict(classifier: Classifier, x: Windows) -> np.ndarray:
    """Class of each window, (n,) strings."""
    device = next(classifier.network.parameters()).device
    signal = torch.from_numpy((np.float32(x) - classifier.mean) / classifier.std)
    scores = _scores(classifier.network, signal, device)
    return np.asarray(classifier.classes)[scores.argmax(1).numpy()]


def train_on_real(
    real: WindowSet,
    classes: Sequence[str],
    config: HarConfig,
    folds: int = 5,
    device: torch.device | str = "cpu",
    network: Callable[..., nn.Module] = DeepConvLSTM,
) -> np.ndarray:
    """The reference line: train and test on real recordings, no subject on both sides.

    A class that only the subjects of one fold have is not recognised there.

    Returns:
        The class of every window, predicted by a model that never saw its subject.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if (people := len(np.unique(real.subjects))) < folds:
        raise InputError("subjects", str(people), f"at least {folds}, one a fold", "Lower `folds`.")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed)
    found = np.empty(len(real), dtype=object)
    for fit, test in splitter.split(real.x, real.labels, real.subjects):
        known = [name for name in classes if name in real.labels[fit]]
        given = real.x[fit], real.labels[fit], known, config, real.subjects[fit], device
        found[test] = predict(train_classifier(*given, network), real.x[test])
    return found.astype(str)


def repeat(
    train: WindowSet | None,
    test: WindowSet,
    classes: Sequence[str],
    section: HarSection,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    progress: bool = True,
    network: Callable[..., nn.Module] = DeepConvLSTM,
) -> pd.DataFrame:
    """Train and test on all real windows, once for each seed: a count table.

    train: synthetic windows; None trains on real windows of other subjects (`train_on_real`).
    """
    names = set(HarConfig.__dataclass_fields__) & set(HarSection.model_fields)
    config, rows = HarConfig(**section.model_dump(include=names)), []
    for seed in tqdm(seeds, "trainings", mininterval=2, disable=not progress):
        config = replace(config, seed=seed)
        if train is None:
            found = train_on_real(test, classes, config, section.folds, device, network)
        else:
            given = train.x, train.labels, classes, config, train.groups, device
            found = predict(train_classifier(*given, network), test.x)
        columns = {"seed": seed, "subject": test.subjects, "truth": test.labels, "found": found}
        rows.append(pd.DataFrame(columns))
    return pd.concat(rows).groupby(COLUMNS).size().rename("windows").reset_index()


# ---------------------------------------------------------------- what count tables say
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


def summary(counts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Balanced accuracy of each generator: mean and standard deviation over seeds, and n."""
    values = {name: balanced_accuracy(table) for name, table in counts.items()}
    return pd.DataFrame({name: v.agg(["mean", "std", "count"]) for name, v in values.items()}).T


def recall_spread(counts: Mapping[str, pd.DataFrame], classes: Sequence[str]) -> pd.DataFrame:
    """Recall of each class by generator, over seeds: columns (class, "mean", "std" or "count")."""
    spread = {n: recalls(t).agg(["mean", "std", "count"]).T.stack() for n, t in counts.items()}
    return pd.DataFrame(spread).T.reindex(columns=list(classes), level=0)


def metrics(counts: pd.DataFrame) -> dict:
    """Balanced accuracy of every seed and recall of every class, for `run.json`."""
    accuracy = balanced_accuracy(counts)
    return {
        "balanced_accuracy": summary_of(accuracy.tolist()),
        "seeds": accuracy.index.tolist(),
        "recall": recalls(counts).mean().to_dict(),
    }


# ---------------------------------------------------------------- other ways than the paper's
@dataclass(frozen=True)
class RecognitionVariant:
    """What is done otherwise than in the paper; the default is as there.

    Its name, such as "gravity-keep0.5", is what its results are kept under.

    Attributes:
        on: which of the track's `more_recordings` it is tested on; "" are its `recordings`.
        axes: of the sensors (`signals.axes`), for training and for test.
        keep: share of the motions of each activity that are trained on, the best by
            `motions.score_motions`; of two decimals.
        sensor_model: whose errors the virtual sensors get (`imu.phone`), such as "phone"; None
            leaves them ideal.
        placement: whether virtual sensors are worn at random (`signals.random_placement`).
    """

    on: str = ""
    axes: Frame = RAW
    keep: float = 1.0
    sensor_model: str | None = None
    placement: bool = False

    @property
    def slug(self) -> str:
        """Its name: "" of the default, else words with dashes between."""
        words = [self.on, self.axes * (self.axes != RAW), f"keep{self.keep:g}" * (self.keep < 1)]
        words += [self.sensor_model, "placement" * self.placement]
        return "-".join(word for word in words if word)

    @property
    def stage(self) -> str:
        """The name of its stage: ``07_har`` or ``07_har-gravity``."""
        return runs.stage_name(STAGE, self.slug)

    def of(self, model: str) -> "RecognitionVariant":
        """What of it applies to a model: real recordings are taken as they are."""
        plain = {"keep": 1.0, "sensor_model": None, "placement": False}
        return replace(self, **plain) if model == runs.REAL else self

    def params(self) -> dict[str, Any]:
        """What `run.json` says of it, with the sensor model's numbers; nothing of the default."""
        numbers = sensor_parameters(self.sensor_model) if self.sensor_model else {}
        found = {"sensor_model": {name: x.value for name, x in numbers.items()} or None}
        return {"variant": asdict(self) | found} if self.slug else {}


PAPER = RecognitionVariant()


def parse_variant(slug: str, track: Track) -> RecognitionVariant:
    """The variant of a name: the reverse of `RecognitionVariant.slug`."""
    found: dict[str, Any] = {}
    for word in slug.split("-"):
        if word in track.more_recordings:
            found["on"] = word
        elif word in FRAMES:
            found["axes"] = word
        elif share := re.fullmatch(r"keep(0\.\d\d?)", word):
            found["keep"] = float(share[1])
        elif (FOLDER / f"{word}{SUFFIX}").is_file():
            found["sensor_model"] = word
        elif word == "placement":
            found["placement"] = True
    variant = RecognitionVariant(**found)
    if variant.slug != slug or variant.keep == 0:
        raise InputError(
            f"variant {slug!r}", "unknown words, or another order", repr(variant.slug),
            "Such as gravity, person, keep0.5, phone, placement, or several in this order.",
        )  # fmt: skip
    return variant


# ---------------------------------------------------------------- windows of a track
def recordings_section(track: Track, variant: RecognitionVariant = PAPER) -> RecordingsSection:
    """The recordings that a variant is tested on: their classes, channels and sites."""
    return track.more_recordings[variant.on] if variant.on else track.recordings


def real_windows(track: Track, variant: RecognitionVariant = PAPER) -> WindowSet:
    """The windows of the real recordings that classifiers are tested on."""
    recordings, most = data.load_recordings(track, variant.on), track.har.test_windows_per_class
    section = recordings_section(track, variant)
    return labelled_windows(recordings, section, most, seed=0, frame=variant.axes)


def synthetic_windows(track: Track, model: str, variant: RecognitionVariant = PAPER) -> WindowSet:
    """All windows of a model's virtual sensors.

    Raises:
        InputError: the variant adds a sensor's errors to sensors that have some already.
    """
    clips, section = data.load_imu(track, model), recordings_section(track, variant)
    if variant.keep < 1:
        table = scored_motions(track, model, variant)
        kept = table.loc[best(table, variant.keep), "motion"]
        clips = clips.select(clips.table["motion"].isin(kept))
    if variant.sensor_model:
        if runs.require_run(track.name, model, SENSORS)["params"].get("sensor_model"):
            raise InputError(
                f"virtual sensors of {model}", "those of a sensor model",
                "ideal ones, to add the errors of one to",
                "Run notebook 04 again with sensor_model = None.",
            )  # fmt: skip
        clips = measured(clips, read_sensor_model(variant.sensor_model))
    placement = 0 if variant.placement else None
    return labelled_windows(clips, section, None, 0, variant.axes, placement)


def scored_motions(track: Track, model: str, variant: RecognitionVariant = PAPER) -> pd.DataFrame:
    """How usual the motions of a model are that it is trained on (`motions.score_motions`)."""
    section, motions = recordings_section(track, variant), data.load_sampled(track, model)
    # Numbered before some are left out, as the virtual sensors are.
    number = motions.table.get("motion", pd.Series(range(len(motions))))
    motions = Clips(motions.table.assign(motion=number), motions.arrays, motions.meta)
    wanted = labels_of(motions, section).isin(section.classes)
    training = data.load_motions(track, track.corpus.train)
    return score_motions(motions.select(wanted), training, data.load_categories(track))


def what_was_used(track: Track, models: Sequence[str]) -> pd.DataFrame:
    """What the classifiers of each model are trained on: a row for each class and model (index)
    with the numbers of different ``prompts``, ``motions`` and ``bodies``, and of ``windows``."""
    section, parts = track.recordings, {}
    for model in models:
        clips = data.load_imu(track, model)
        by_class = clips.table.groupby(labels_of(clips, section).to_numpy())
        counts = by_class[["prompt", "motion", "body"]].nunique()
        counts.columns = ["prompts", "motions", "bodies"]
        windows = labelled_windows(clips, section, None, 0).counts()
        parts[model] = counts.loc[section.classes].assign(windows=windows)
    table = pd.concat(parts, names=["model", "class"]).swaplevel()
    return table.loc[[(name, model) for name in section.classes for model in models]]


# ---------------------------------------------------------------- beside the paper's numbers
def measured_values(
    lacc: Mapping[str, float], accuracy: Mapping[str, Sequence[float]], refined: str
) -> dict[str, list[float]]:
    """What this run has for each quantity of the paper, by its id; percentages as the paper's.

    lacc: mean L_acc by model. accuracy: balanced accuracies (0..1) by model, one for each seed.
    refined: the model that stands for the paper's refined one.
    """
    found: dict[str, list[float]] = {}
    if BASE in lacc and refined in lacc:
        found["lacc_mdm"], found["lacc_refined"] = [lacc[BASE]], [lacc[refined]]
        found["lacc_change"] = [100 * (lacc[refined] / lacc[BASE] - 1)]
    mean = {model: float(np.mean(values)) for model, values in accuracy.items()}
    for model, name in [*((m, m) for m in (BASE, *OTHERS)), (refined, "refined")]:
        if model in accuracy:
            found[f"har_{name}"] = [100 * v for v in accuracy[model]]
    # "The best other model" is among those of other people, as in the paper.
    others = [mean[model] for model in OTHERS if model in mean]
    for name, values in (("mdm", [mean[BASE]] if BASE in mean else []), ("best", others)):
        if values and refined in mean:
            found[f"gain_{name}"] = [100 * (mean[refined] / max(values) - 1)]
    return found


def what_differs(track: Track, refined: str) -> dict[str, str]:
    """How this run differs from the paper's, for each kind of quantity.

    refined: the model that stands for the paper's refined one.
    """
    base, har, real = track.generators[BASE], track.har, track.recordings
    lacc = [f"held-out clips ({', '.join(track.corpus.test)}) instead of the training clips"]
    if base.checkpoint in (SHIPPED, None):
        lacc.append("a prior of this project's own instead of the official checkpoint")
    lacc.append(f"L_acc of z-scored features; refined: {label(refined)}, where no λ is printed")
    recognition = [f"{len(real.classes)} classes, {'+'.join(real.channels)} at {len(real.sites)} "
                   f"sites of {real.reader}", f"{len(har.seeds)} seeds (10 in the paper)",
                   f"{har.filters} filters, {har.units} units, {har.epochs} epochs"]  # fmt: skip
    return {
        "lacc": f"{track.title}: {'; '.join(lacc)}",
        "har": f"{track.title}: {'; '.join(recognition)}",
        "gain": "ratio of the mean accuracies above",
    }


def comparison_table(
    measured: Mapping[str, Sequence[float]], differs: Mapping[str, str]
) -> pd.DataFrame:
    """One row for each quantity of the paper: *paper | reproduced mean ± sd (n) | what differs*.

    measured: `measured_values`; a quantity that is missing is shown as not run. differs: text by
    the part of the id before its underscore (`what_differs`).
    """
    rows = []
    for row in read_json(PAPER_VALUES)["quantities"]:
        values, unit = measured.get(row["id"]), f" {row['unit']}".rstrip()
        number, text, difference = f"{{:.{row['digits']}f}}".format, "not run", ""
        if values:
            found = summary_of(values)
            spread = "" if found["sd"] is None else f" ± {number(found['sd'])}"
            text = f"{number(found['mean'])}{spread}{unit} (n = {found['n']})"
            difference = differs.get(row["id"].split("_")[0], "")
        rows.append((row["label"], f"{number(row['value'])}{unit}", text, difference))
    return pd.DataFrame(rows, columns=["quantity", "paper", "reproduced", "what differs"])


def collect_results(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge `run.json` records of one track into what `results.json` holds: ``track``, and in
    ``models`` by model and stage the parameters, metrics and provenance."""
    models: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda r: (model_order(r["model"]), r["stage"])):
        stages = models.setdefault(record["model"], {})
        stages[record["stage"]] = {name: record[name] for name in KEPT}
    return {"track": records[0]["track"], "models": models}
