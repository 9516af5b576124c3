"""Level switching: a shape is changed two blocks at a time while the loss of the whole one falls.

The sums from which a shape was chosen know each block alone. Here one block gives up some units,
another takes what that frees, and the shape as it stands is measured on text; kept is what loses
less. EvoPress (2410.14649) switches levels of one size so; here what is exchanged is time, and
bytes where they are limited.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeprune.search.costs import Budget, Costs
from edgeprune.search.shape import Shape

_FURTHEST = 4
"""Levels that a block gives up at once, at most."""

Block = tuple[str, int]
"""A kind of unit and a place in a shape."""


def switched(
    start: Shape,
    levels: Callable[[str, int], Sequence[int]],
    times: Costs,
    sizes: Costs,
    budget: Budget,
    loss: Callable[[Shape], float],
    tries: int,
    rng: np.random.Generator,
    enough: Callable[[], bool] = lambda: False,
) -> Shape:
    """The best shape found from `start`, which keeps the budget; no worse than it.

    Args:
        levels: the units that a kind of block of a layer may keep, rising.
        loss: of a whole shape.
        tries: shapes that are measured beside the first, at most.
        enough: asked before each; where it says so, no more are measured.
    """
    best, least = start, loss(start)
    seen = {start}
    for _ in range(tries):
        if enough():
            break
        found = _neighbour(best, levels, times, sizes, budget, seen, rng)
        if found is None:
            return best
        seen.add(found)
        if (measured := loss(found)) < least:
            best, least = found, measured
    return best


_DRAWS = 200
"""Pairs of blocks that are drawn before there is taken to be no other shape nearby."""


def _neighbour(
    shape: Shape,
    levels: Callable[[str, int], Sequence[int]],
    times: Costs,
    sizes: Costs,
    budget: Budget,
    seen: set[Shape],
    rng: np.random.Generator,
) -> Shape | None:
    """A shape not seen yet that keeps the budget: one block narrower, another as wide as fits."""
    widths = {
        **{("heads", place): kept for place, kept in enumerate(shape.heads)},
        **{("channels", place): kept for place, kept in enumerate(shape.channels)},
    }
    blocks = list(widths)
    for _ in range(_DRAWS):
        gives, takes = (blocks[each] for each in rng.choice(len(blocks), 2, replace=False))
        own = [each for each in _of(levels, gives, shape) if each < widths[gives]]
        less = int(rng.integers(0, _FURTHEST + 1))
        if less > len(own):
            continue
        narrower = {**widths, **({gives: own[-less]} if less else {})}
        wider = [each for each in _of(levels, takes, shape) if each > widths[takes]]
        for kept in reversed(wider):
            found = _shape(shape.layers, {**narrower, takes: kept})
            if _fits(found, times, sizes, budget):
                if found not in seen:
                    return found
                break
    return None


def _of(levels: Callable[[str, int], Sequence[int]], block: Block, shape: Shape) -> Sequence[int]:
    kind, place = block
    return levels(kind, shape.layers[place])


def _shape(layers: tuple[int, ...], widths: Mapping[Block, int]) -> Shape:
    heads, channels = (
        tuple(widths[kind, place] for place in range(len(layers))) for kind in ("heads", "channels")
    )
    return Shape(layers, heads, channels)


def _fits(shape: Shape, times: Costs, sizes: Costs, budget: Budget) -> bool:
    return (budget.seconds is None or times.of(shape) <= budget.seconds) and (
        budget.bytes is None or sizes.of(shape) <= budget.bytes
    )
