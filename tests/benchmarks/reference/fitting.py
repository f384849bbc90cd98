"""Joints to SMPL frame by frame: L-BFGS through the whole mesh, as joints2smpl does.

Each frame starts where the frame before ended. Facing and place come first, then everything; a pose
prior around rest holds what joints leave open.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2imu_utils.body.smpl import Body
from tests.benchmarks.reference.body import whole_mesh

# What one unit of the loss stands for: metres of a joint, radians of a bone, units of beta.
JOINT, POSE, BETA = 0.01, 0.5, 1.0
OUTER, PLACING = 100, 10


State = tuple[Tensor, Tensor, Tensor, Tensor]


def fit(
    body: Body,
    target: Float[np.ndarray, "F 22 3"],
    start: State | None = None,
    outer: int = OUTER,
    placing: int = PLACING,
) -> tuple[Float[np.ndarray, "F 22 3"], State]:
    """The fitted joints in metres of every frame, and betas, facing, pose, place of the last one.

    start: what the frame before ended with; None is the first frame of a clip. outer: calls of
    L-BFGS a frame, each of at most 20 iterations with a line search; placing: of a first frame.
    """
    device = body.model.v_template.device
    goals = torch.as_tensor(target, dtype=torch.float32, device=device)
    zero = [torch.zeros(1, n, device=device) for n in (10, 3, 69)]
    state = [*zero, goals[:1, 0]] if start is None else start
    state = tuple(x.clone().requires_grad_(True) for x in state)
    found = []
    for goal in goals:

        def loss(goal=goal) -> Tensor:
            joints = whole_mesh(body, *state)[1][0, :22]
            betas, _, pose, _ = state
            data = ((joints - goal) ** 2).sum() / JOINT**2
            return data + (pose**2).sum() / POSE**2 + (betas**2).sum() / BETA**2

        if start is None and not found:
            _minimise(loss, [state[1], state[3]], placing)
        _minimise(loss, list(state), outer)
        with torch.no_grad():
            found.append(whole_mesh(body, *state)[1][0, :22].cpu().numpy())
    return np.stack(found), tuple(x.detach() for x in state)


def _minimise(loss, variables: list[Tensor], outer: int) -> None:
    solver = torch.optim.LBFGS(variables, lr=1.0, max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(outer):
        solver.step(closure)
