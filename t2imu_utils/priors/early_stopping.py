"""Early stopping: the weights that did best on held-out clips, kept beside a training."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Best:
    """The weights with the lowest held-out loss so far, and the step that they were found at."""

    def __init__(self):
        self.step, self.loss = 0, math.inf
        self._weights: dict[str, Tensor] = {}

    def offer(self, model: nn.Module, step: int, loss: float) -> None:
        """Keep a copy of the weights if their loss is lower than all before."""
        if loss < self.loss:
            self.step, self.loss = step, loss
            self._weights = {name: x.detach().clone() for name, x in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Give a model the weights that were kept."""
        model.load_state_dict(self._weights)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {"step": self.step, "loss": self.loss, "weights": self._weights}

    def load(self, state: dict[str, Any]) -> None:
        """From a state file; `KeyError` where it is none."""
        self.step, self.loss, self._weights = state["step"], state["loss"], state["weights"]


def kept_row(
    validated: Sequence[dict[str, float]], term: str, early_stopping: bool
) -> dict[str, float]:
    """Of all validations that of the weights that a training returns."""
    return min(validated, key=lambda row: row[term]) if early_stopping else validated[-1]
