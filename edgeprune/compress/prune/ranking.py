"""The units of a pattern that cost least, exactly as many as are asked for."""

import torch
from torch import Tensor

from edgeprune.base.budget import apportion
from edgeprune.compress.maths.ranking import lowest
from edgeprune.compress.prune.patterns import Pattern


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
