"""Costs of removing any number of a linear's input units, in one pass, compensated.

A unit is a set of input columns (a channel's one, a head's head_dim, a slot's heads): removing it
takes the columns away, and the columns that stay make up for it by least squares under the Hessian
H = X X^T of what the linear reads (obs.py). The unit S whose removal costs least,

    sum over rows of w_S (inv(H)_SS)^-1 w_S^T

leaves first; weights and inverse then become those of the problem without it (inv(H) loses its
Schur complement), and so on. The costs add up: after every step their sum is the least squared
error with which the units that are left can stand in for all. The order is greedy,
as in ZipLM (2302.04089); the cost of what it chose is exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_DENSE = 0.75
"""Share of the columns below which those that are gone are left out of the matrices."""


@dataclass(frozen=True)
class Removal:
    """The way from all units to the last few.

    order: units in the order in which they leave [steps]. costs: the squared error once the first
    0, 1, ... of them are gone [steps + 1], float64.
    """

    order: Tensor
    costs: Tensor


def removal(
    weight: Tensor, hessian: Tensor, columns: Tensor, keep: int = 1, together: int = 1
) -> Removal:
    """Remove units one after the other until `keep` are left.

    Time: units / together steps over in^2 entries. Memory: twice the Hessian.

    Args:
        weight: [out, in].
        hessian: [in, in], damped, float64.
        columns: the columns of each unit [units, columns], of no two the same.
        keep: units that stay, at least one.
        together: units that leave in one step, chosen by what each alone costs; what they cost
            together is exact, and shared out among them in equal parts.
    """
    work = weight.detach().double().clone()
    inverse = torch.linalg.inv(hessian)
    alive = torch.arange(len(columns))
    order: list[int] = []
    costs = [0.0]
    while (spare := len(alive) - max(1, keep)) > 0:
        alone = _alone(work, inverse, columns[alive])
        count = min(together, spare)
        chosen = alone.topk(count, largest=False, sorted=True).indices
        units = alive[chosen]
        gone = columns[units].flatten()
        corner = inverse[gone][:, gone]
        solved = torch.linalg.solve(corner, inverse[gone])  # [gone, in]
        cost = float((work[:, gone] * torch.linalg.solve(corner, work[:, gone].T).T).sum())
        work -= work[:, gone] @ solved
        inverse -= inverse[:, gone] @ solved
        work[:, gone] = 0
        costs += [costs[-1] + max(0.0, cost) * (step + 1) / count for step in range(count)]
        order += units.tolist()
        left = torch.ones(len(alive), dtype=torch.bool)
        left[chosen] = False
        alive = alive[left]
        if columns.shape[1] * len(alive) < _DENSE * len(inverse):
            there = columns[alive].flatten()
            work, inverse = work[:, there], inverse[there][:, there]
            columns = torch.zeros_like(columns).index_copy_(
                0, alive, torch.arange(len(there)).view(len(alive), -1)
            )
    return Removal(torch.tensor(order, dtype=torch.long), torch.tensor(costs, dtype=torch.float64))


def _alone(work: Tensor, inverse: Tensor, columns: Tensor) -> Tensor:
    """The cost of removing each unit alone [units]."""
    if columns.shape[1] == 1:
        index = columns.flatten()
        return work[:, index].square().sum(0) / inverse.diagonal()[index]
    corners = inverse[columns[:, :, None], columns[:, None, :]]  # [units, columns, columns]
    weights = work[:, columns].permute(1, 2, 0)  # [units, columns, out]
    return (weights * torch.linalg.solve(corners, weights)).sum((1, 2))
