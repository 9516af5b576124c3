"""Exact selection: precisely `count` entries, ties by position, the same on every run."""

import torch
from torch import Tensor

from edgeprune.base.budget import apportion
from edgeprune.compress.prune.patterns import Pattern


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` lowest of `scores` [n]; the earlier entry wins a tie. No NaN."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    if count == 0:
        return chosen
    if not 0 < count <= scores.numel():
        raise ValueError(f"cannot choose {count} of {scores.numel()} entries")
    threshold = torch.kthvalue(scores, count).values
    torch.lt(scores, threshold, out=chosen)
    ties = (scores == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def highest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` highest of `scores` [n]; the earlier entry wins a tie. No NaN."""
    return lowest(-scores, count)


def cheapest(pattern: Pattern, costs: Tensor, count: int) -> Tensor:
    """Mask [units] of the `count` units of least cost that a pattern lets go together."""
    return lowest(_where_removable(pattern, costs), count)


def cheapest_by_row(pattern: Pattern, costs: Tensor, count: int) -> Tensor:
    """The same, with as many from each row of units as from any other, but for one."""
    table = _where_removable(pattern, costs).reshape(pattern.grid)
    rooms = table.isfinite().sum(1).tolist()
    shares = torch.tensor(apportion(count, [1.0] * len(rooms), upper=rooms))
    order = table.argsort(dim=1, stable=True)
    place = torch.arange(table.shape[1]).expand_as(order)
    gone = torch.zeros_like(table, dtype=torch.bool)
    return gone.scatter_(1, order, place < shares[:, None]).reshape(-1)


def _where_removable(pattern: Pattern, costs: Tensor) -> Tensor:
    whole = torch.ones_like(costs, dtype=torch.bool)
    return costs.masked_fill(~pattern.removable(costs, whole, whole), torch.inf)
