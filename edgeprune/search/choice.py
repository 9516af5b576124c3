"""The shape that loses least within a time and a size: exactly, for every set of layers.

Within a set of layers the losses and times of blocks add up, so the best widths are a
multiple-choice knapsack (compress/maths/knapsack.py), solved exactly over whole nanoseconds. A
limit of bytes beside that of time is taken into the cost by a multiplier, the least under which the
choice fits. Sums of losses compare within a set; between depths they are a guess, which training
settles: so the best shape of every depth is given, not one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprune.compress.maths.knapsack import Option, choose
from edgeprune.search.costs import Budget, Costs
from edgeprune.search.losses import Curve, Losses
from edgeprune.search.shape import Shape

_TICK = 1e-9
"""Seconds of the knapsack's unit."""
_MULTIPLIERS = 40
"""Halvings of the interval that holds the multiplier of bytes."""
_LEVELS = 48
Levels = dict[int, float]
"""Units that a block may keep -> its loss with them, rising in units."""


@dataclass(frozen=True)
class Candidate:
    """A shape with what was predicted of it."""

    shape: Shape
    loss: float
    seconds: float
    bytes: float


def candidates(losses: Losses, times: Costs, sizes: Costs, budget: Budget) -> list[Candidate]:
    """The best shape of every depth that fits the budget, the least predicted loss first."""
    blocks = [
        (_levels(own), _levels(other))
        for own, other in zip(losses.heads, losses.channels, strict=True)
    ]
    best: dict[int, Candidate] = {}
    for layers in losses.layers:
        kept = [blocks[layer] for layer in layers.kept]
        found = _best(kept, layers.kept, times, sizes, budget)
        if found is None:
            continue
        found = replace(found, loss=found.loss + layers.loss)
        depth = len(layers.kept)
        if depth not in best or found.loss < best[depth].loss:
            best[depth] = found
    return sorted(best.values(), key=lambda each: each.loss)


def _levels(curve: Curve) -> Levels:
    """The loss of each level of a block whose outputs are finite."""
    losses = {kept: curve.loss(kept) for kept in levels_of(curve)}
    return {kept: loss for kept, loss in losses.items() if math.isfinite(loss)}


def _best(
    blocks: Sequence[tuple[Levels, Levels]],
    layers: Sequence[int],
    times: Costs,
    sizes: Costs,
    budget: Budget,
) -> Candidate | None:
    """The best widths of some layers; None where even the least do not fit.

    Args:
        blocks: attention and feed-forward of each of the layers.
    """

    def solved(multiplier: float) -> Candidate | None:
        shape = _solve(blocks, layers, times, sizes, budget.seconds, multiplier)
        if shape is None:
            return None
        widths = zip(blocks, shape.heads, shape.channels, strict=True)
        loss = sum(own[heads] + other[channels] for (own, other), heads, channels in widths)
        return Candidate(shape, loss, times.of(shape), sizes.of(shape))

    found = solved(0.0)
    if found is None or budget.bytes is None or found.bytes <= budget.bytes:
        return found
    low, high = 0.0, 1e-9  # loss a byte
    while (heavy := solved(high)) is not None and heavy.bytes > budget.bytes:
        low, high = high, 16 * high
        if high > 1e9:
            return None  # even the smallest are too large
    for _ in range(_MULTIPLIERS):
        middle = (low + high) / 2
        tried = solved(middle)
        if tried is not None and tried.bytes <= budget.bytes:
            high, heavy = middle, tried
        else:
            low = middle
    return heavy


def _solve(
    blocks: Sequence[tuple[Levels, Levels]],
    layers: Sequence[int],
    times: Costs,
    sizes: Costs,
    seconds: float | None,
    multiplier: float,
) -> Shape | None:
    """The widths of least loss + multiplier * bytes within `seconds`."""
    kinds = ((times.heads, sizes.heads), (times.channels, sizes.channels))
    levels = [level for block in blocks for level in block]
    items = [
        [
            Option(round(time(kept) / _TICK), loss + multiplier * size(kept))
            for kept, loss in level.items()
        ]
        for level, (time, size) in zip(levels, kinds * len(blocks), strict=True)
    ]
    fixed = times.rest + len(layers) * times.layer
    most = sum(max(option.size for option in options) for options in items)
    limit = most if seconds is None else int((seconds - fixed) / _TICK)
    try:
        chosen = choose(items, limit)
    except ValueError:
        return None
    widths = [list(level)[place] for level, place in zip(levels, chosen, strict=True)]
    return Shape(tuple(layers), tuple(widths[::2]), tuple(widths[1::2]))


def levels_of(curve: Curve) -> Sequence[int]:
    """The numbers of units of a block that a shape may keep, rising: every head; channels in 48
    steps of equal size, each a multiple of 16 where there are so many."""
    if curve.units // curve.step <= _LEVELS:
        return range(curve.step, curve.units + 1, curve.step)
    width = max(1, round(curve.units / _LEVELS / 16)) * 16
    least = max(width, min(curve.kept))
    return sorted({*range(-(-least // width) * width, curve.units, width), curve.units})
