"""One option for each of many items, at the least total cost within a budget: exactly.

The multiple-choice knapsack by dynamic programming over thing after thing. A state is what the
items so far take and cost; it is dropped where another takes no more and costs no more, and where
even the linear relaxation of what is left (fractions of options along each thing's lower convex
hull) cannot bring it below the best whole choice that is known. Both are exact: no size is rounded.
Few states live, since the relaxation is off by less than one option's step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_SLACK = 1e-9
"""Relative slack of the bound, above the rounding of sums in float64."""
_ROUNDING = 1e-12
"""The same of the largest costs: where the best choice costs nothing, what rounding leaves of them
is no reason to drop it."""


@dataclass(frozen=True)
class Option:
    """Its share of the budget (bytes, or predicted nanoseconds), and its cost."""

    size: int
    cost: float


def choose(items: Sequence[Sequence[Option]], budget: int) -> list[int]:
    """The index of one option for each thing: least sum of costs with a sum of sizes <= budget.

    Raises:
        ValueError: even the smallest options take more than the budget.
    """
    smallest = [min(option.size for option in options) for options in items]
    if sum(smallest) > budget:
        raise ValueError(f"the smallest options take {sum(smallest)}, more than {budget}")
    relaxed = _relaxations(items)
    best = _greedy(items, budget)
    largest = sum(max(abs(option.cost) for option in options) for options in items)
    bound = best + _SLACK * abs(best) + _ROUNDING * largest
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    for place, options in enumerate(items):
        new_sizes = np.concatenate([sizes + option.size for option in options])
        new_costs = np.concatenate([costs + option.cost for option in options])
        left = budget - new_sizes
        least = new_costs + relaxed[place + 1](left)
        alive = np.flatnonzero(least <= bound)
        order = alive[np.lexsort((new_costs[alive], new_sizes[alive]))]
        before = np.minimum.accumulate(np.concatenate([[np.inf], new_costs[order][:-1]]))
        order = order[new_costs[order] < before]
        trail.append((order // len(sizes), order % len(sizes)))
        sizes, costs = new_sizes[order], new_costs[order]
    state = int(costs.argmin())
    chosen = []
    for picked, parent in reversed(trail):
        chosen.append(int(picked[state]))
        state = int(parent[state])
    return chosen[::-1]


@dataclass(frozen=True)
class _Relaxation:
    """The least cost of some items with fractions of options, as a function of the budget."""

    size: int
    """Total size of the smallest options."""
    cost: float
    """Their total cost."""
    extra: np.ndarray
    """Sizes beyond it as the steps of best return are bought, summed, from 0."""
    gain: np.ndarray
    """Costs that those steps save, summed, from 0."""

    def __call__(self, budget: np.ndarray) -> np.ndarray:
        """Least costs by budget; infinite where not even the smallest options fit."""
        left = budget - self.size
        saved = np.interp(left, self.extra, self.gain)
        return np.where(left >= 0, self.cost - saved, np.inf)


def _relaxations(items: Sequence[Sequence[Option]]) -> list[_Relaxation]:
    """Of the items from each place on; the last is of none."""
    hulls = [_hull(options) for options in items]
    found = []
    for place in range(len(items) + 1):
        rest = hulls[place:]
        steps = [step for hull in rest for step in pairwise(hull)]
        extra = np.array([after.size - before.size for before, after in steps], float)
        gain = np.array([before.cost - after.cost for before, after in steps], float)
        order = np.argsort(-gain / extra, kind="stable")
        found.append(
            _Relaxation(
                sum(hull[0].size for hull in rest),
                sum(hull[0].cost for hull in rest),
                np.concatenate([[0.0], extra[order].cumsum()]),
                np.concatenate([[0.0], gain[order].cumsum()]),
            )
        )
    return found


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull: larger options cost less, each step with a smaller return."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.size, option.cost)):
        if hull and option.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _return(hull[-2], hull[-1]) <= _return(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _return(before: Option, after: Option) -> float:
    return (before.cost - after.cost) / (after.size - before.size)


def _greedy(items: Sequence[Sequence[Option]], budget: int) -> float:
    """Cost of the choice that buys the steps of best return as long as they fit."""
    hulls = [_hull(options) for options in items]
    at = [0] * len(hulls)
    left = budget - sum(hull[0].size for hull in hulls)
    steps = sorted(
        (
            (-_return(hull[i], hull[i + 1]), place, i)
            for place, hull in enumerate(hulls)
            for i in range(len(hull) - 1)
        ),
    )
    for _, place, i in steps:
        size = hulls[place][i + 1].size - hulls[place][i].size
        if at[place] == i and size <= left:
            at[place], left = i + 1, left - size
    return sum(hull[i].cost for hull, i in zip(hulls, at, strict=True))
