"""Ways of doing stage 07 other than the paper's, each with a name that its results are kept under.

``07_har-gravity-keep0.5`` is the stage with gravity-aligned axes and the better half of motions.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.window_sets import AXES, GRAVITY, RAW, Axes
from t2imu_utils.imu.sensor_model import FOLDER, SUFFIX, sensor_parameters

STAGE = "07_har"
KEEP, WITHOUT = "keep", "without_"
REMEDY = "Such as gravity, keep0.5, phone, without_stair_climbing, or several in this order."
_KEEP = re.compile(rf"{KEEP}(\d*\.?\d+)")


@dataclass(frozen=True)
class RecognitionVariant:
    """What is done otherwise than in the paper; the default is as there.

    Attributes:
        axes: of the sensors: "raw", or "gravity" (`gravity_frame`), for training and for test.
        keep: share of the motions of each activity that are trained on, the best by
            `evaluation.quality`; of two decimals.
        sensor_model: whose errors the virtual sensors get (`imu.sensor_model`), such as "phone";
            None leaves them ideal.
        without: classes that are left out of training and of test; kept in order of the alphabet.

    Raises:
        InputError: an unknown kind of axes or sensor model, or a share out of range.
    """

    axes: Axes = "raw"
    keep: float = 1.0
    sensor_model: str | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", tuple(sorted(set(self.without))))
        for name, found, good, expected in (
            ("axes", self.axes, self.axes in AXES, f"one of {', '.join(AXES)}"),
            ("keep", self.keep, 0 < self.keep <= 1 and round(self.keep, 2) == self.keep,
             "more than 0, at most 1, of two decimals"),
            ("sensor_model", self.sensor_model, self.sensor_model in (None, *sensor_models()),
             f"None or one of {', '.join(sensor_models())}"),
        ):  # fmt: skip
            if not good:
                raise InputError(f"variant: {name}", repr(found), expected, REMEDY)

    @property
    def slug(self) -> str:
        """Its name: "" of the default, else words with dashes between; `parse_variant` reads it."""
        words = [self.axes] * (self.axes != RAW) + [f"{KEEP}{self.keep:g}"] * (self.keep < 1)
        words += [self.sensor_model] if self.sensor_model else []
        return "-".join(words + [WITHOUT + name.replace(" ", "_") for name in self.without])

    @property
    def stage(self) -> str:
        """The name of its stage: ``07_har`` or ``07_har-gravity``."""
        return runs.stage_name(STAGE, self.slug)

    def of(self, model: str) -> "RecognitionVariant":
        """What of it applies to a model: real recordings are neither filtered nor measured anew."""
        return replace(self, keep=1.0, sensor_model=None) if model == runs.REAL else self

    def classes(self, classes: Sequence[str]) -> list[str]:
        """The classes of a track that are told apart; chance is one over their number.

        Raises:
            InputError: one to be left out is none of them, or fewer than two are left.
        """
        left = [name for name in classes if name not in self.without]
        if not set(self.without) <= set(classes) or len(left) < 2:
            raise InputError(
                "variant: without", ", ".join(self.without),
                f"some of {', '.join(classes)}, so that two are left", "Check their spelling.",
            )  # fmt: skip
        return left

    def params(self) -> dict[str, Any]:
        """What `run.json` says of it, with the sensor model's numbers; nothing of the default."""
        if not self.slug:
            return {}
        found = {**asdict(self), "without": list(self.without)}
        if self.sensor_model:
            numbers = sensor_parameters(self.sensor_model)
            found["sensor_model"] = {name: number.value for name, number in numbers.items()}
        return {"variant": found}


def sensor_models() -> list[str]:
    """The sensor models that come with the package."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def parse_variant(slug: str) -> RecognitionVariant:
    """The variant of a name: the reverse of `RecognitionVariant.slug`.

    Raises:
        InputError: an unknown word, one twice, or another order than that of `slug`.
    """
    found: dict[str, Any] = {}
    for word in slug.split("-") if slug else []:
        if word == GRAVITY:
            found["axes"] = GRAVITY
        elif share := _KEEP.fullmatch(word):
            found["keep"] = float(share[1])
        elif word in sensor_models():
            found["sensor_model"] = word
        elif word.startswith(WITHOUT):
            name = word.removeprefix(WITHOUT).replace("_", " ")
            found["without"] = (*found.get("without", ()), name)
        else:
            raise InputError(f"variant {slug!r}", repr(word), "words of a variant", REMEDY)
    variant = RecognitionVariant(**found)
    if variant.slug != slug:
        raise InputError(f"variant {slug!r}", "another spelling", repr(variant.slug), REMEDY)
    return variant
