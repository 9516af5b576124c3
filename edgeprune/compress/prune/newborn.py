"""Care for regrown weights, so that they catch up: a fresh optimizer, a fair score, time.

A newborn starts at zero with Adam's averages at zero. Adam keeps one step counter per tensor, so
on its own it would take a newborn's averages for old ones and get its first steps wrong (three
times too long late in training, too short early); `StepCorrection` rescales them to what a
counter restarted for that entry would give.
After the interventions of "On the Stability of Growth in Structural Plasticity" (2605.15435);
the correction is our own derivation.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer


def forget(optimizer: Optimizer | None, value: Tensor, born: Tensor) -> None:
    """Set every state of `value`'s shape that the optimizer keeps to zero where `born` [shape]."""
    if optimizer is None:
        return
    for state in optimizer.state.get(value, {}).values():
        if isinstance(state, Tensor) and state.shape == value.shape:
            state.masked_fill_(born, 0)


def seed(buffers: dict[str, Tensor], active: Tensor, born: Tensor) -> None:
    """Give newborns the median of each accumulator over the layer's active weights."""
    if not active.any():
        return
    for buffer in buffers.values():
        buffer.masked_fill_(born, buffer[active].median())


class StepCorrection:
    """Shortens the newborns' Adam steps as if the step counter had restarted at their birth.

    `positions`: flat indices of the living newborns of one tensor. `ages`: optimizer steps since
    birth, before the coming one. Other optimizers than Adam's kind keep no counter: no change.
    """

    def __init__(self, value: Tensor, positions: Tensor, ages: Tensor) -> None:
        self.value, self.positions, self.ages = value, positions, ages
        self.before: Tensor | None = None

    def remember(self) -> None:
        """Call before the optimizer's step."""
        self.before = self.value.detach().reshape(-1)[self.positions]

    def apply(self, optimizer: Optimizer | None) -> None:
        """Call after the optimizer's step."""
        before, self.before = self.before, None
        if before is None or optimizer is None:
            return
        self.ages += 1
        state = optimizer.state.get(self.value, {})
        if "exp_avg_sq" not in state or "step" not in state:
            return
        group = next(g for g in optimizer.param_groups if any(p is self.value for p in g["params"]))
        beta1, beta2 = (float(beta) for beta in group["betas"])
        step, ages = float(state["step"]), self.ages.double()
        mean = (1 - beta1**step) / (1 - beta1**ages)
        square = torch.sqrt((1 - beta2**ages) / (1 - beta2**step))
        start = before
        if group.get("decoupled_weight_decay", False):
            start = before * (1 - float(group["lr"]) * float(group["weight_decay"]))
        flat = self.value.detach().view(-1)
        moved = flat[self.positions] - start
        flat[self.positions] = start + (mean * square).to(flat.dtype) * moved
