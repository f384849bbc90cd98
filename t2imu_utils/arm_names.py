"""Names of the models of the study: of generators as they are, of controls, of refined arms.

``mdm`` is a generator as it was trained or published; ``mdm-ft`` its control, trained on without
L_acc; ``mdm-acc0.1`` has L_acc with weight 0.1. Whatever else differs from the defaults is
appended: ``mdm-acc0.1-vel0.5-joints-s1``.
"""

import re
from dataclasses import dataclass

# The generator that the paper refines.
BASE = "mdm"
CONTROL = f"{BASE}-ft"
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_NAME = re.compile(
    rf"(?P<generator>[a-z][a-z0-9]*)"
    rf"(?:-(?:ft|acc(?P<weight>{NUMBER}))(?P<options>(?:-(?!s\d)[a-z]+(?:{NUMBER})?)*)"
    rf"(?:-s(?P<seed>[0-9]+))?)?"
)


@dataclass(frozen=True)
class ArmName:
    """A name taken apart.

    weight: lambda_acc; 0 for a control, None for a generator as it is. options: what else differs
    from the defaults. seed: of the training.
    """

    generator: str
    weight: float | None = None
    options: str = ""
    seed: int = 0

    @property
    def refined(self) -> bool:
        """Whether it was trained with L_acc."""
        return bool(self.weight)


def parse(model: str) -> ArmName | None:
    """A name taken apart, or None where it is none of the study's."""
    found = _NAME.fullmatch(model)
    if found is None:
        return None
    arm = model != found["generator"]
    weight = float(found["weight"] or 0) if arm else None
    seed = int(found["seed"] or 0)
    return ArmName(found["generator"], weight, (found["options"] or "").strip("-"), seed)


def model_name(
    lambda_acc: float,
    lambda_pos: float = 0.0,
    lambda_foot: float = 0.0,
    lambda_vel: float = 0.0,
    acc_variant: str = "features",
    seed: int = 0,
    generator: str = BASE,
) -> str:
    """The name of a fine-tuned arm, so that no two settings ever share a folder."""
    parts = [f"{generator}-ft" if lambda_acc == 0 else f"{generator}-acc{lambda_acc:g}"]
    weights = {"pos": lambda_pos, "foot": lambda_foot, "vel": lambda_vel}
    parts += [f"{name}{weight:g}" for name, weight in weights.items() if weight]
    parts += [acc_variant] * bool(lambda_acc and acc_variant != "features")
    return "-".join(parts + [f"s{seed}"] * (seed != 0))


def base_of(model: str) -> str:
    """The generator that a model was made from."""
    return model.split("-")[0]


def control_of(model: str) -> str:
    """The control of a model: the same seed and the same other losses, without L_acc."""
    name = parse(model)
    if name is None:
        return model
    others = re.findall(rf"(pos|foot|vel)({NUMBER})", name.options)
    weights = {f"lambda_{loss}": float(weight) for loss, weight in others}
    return model_name(0, **weights, seed=name.seed, generator=name.generator)


def is_base(model: str) -> bool:
    """Whether a model is a generator as it was trained or published."""
    return "-" not in model


def is_refined(model: str) -> bool:
    """Whether a model was trained with L_acc."""
    name = parse(model)
    return name is not None and name.refined


def model_order(model: str) -> tuple:
    """Sorting key: MDM first, then the others by name; of each the generator, control, weights."""
    name = parse(model)
    if name is None:
        return 2, model, 0, 0.0, 0, model
    rank = 0 if name.weight is None else 1 if name.weight == 0 else 2
    return name.generator != BASE, name.generator, rank, name.weight or 0.0, name.seed, model
