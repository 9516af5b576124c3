"""The small models that are timed, so that every width's time follows from them.

A small model has a few layers of one width each. Pairs of heads and channels are drawn so that
neither says anything about the other; of many drawings that is taken whose least certain level is
known best (A-optimal, by the trace of the inverse of its normal equations).
"""

from collections.abc import Sequence

import numpy as np

from edgeprune.model.anatomy import Anatomy
from edgeprune.search.shape import Shape
from edgeprune.search.times.settings import BlockSettings

_DRAWINGS = 200
_CURVED = 1.5
"""Levels of channels lie denser where there are few: at the places of a power of this."""


def head_levels(anatomy: Anatomy, most: int) -> list[int]:
    """Numbers of query heads that a layer may keep, rising; at most `most`, both ends among them.

    Where key-value heads stay, each keeps equally many query heads.
    """
    part = anatomy.attentions[0]
    if anatomy.heads_stay:
        return [part.num_heads]
    unit = part.num_key_value_heads if anatomy.shared_key_value_heads else 1
    count = part.num_heads // unit
    kept = np.linspace(1, count, min(most, count)).round().astype(int)
    return [unit * int(each) for each in kept]


def channel_levels(channels: int, most: int, step: int) -> list[int]:
    """Numbers of channels that are timed, rising; multiples of `step` but for the last, which is
    all of them."""
    wanted = channels * (np.arange(1, most + 1) / most) ** _CURVED
    rounded = {max(step, int(each / step + 0.5) * step) for each in wanted}
    return [*sorted(each for each in rounded if each < channels), channels]


def design(anatomy: Anatomy, settings: BlockSettings) -> list[Shape]:
    """The shapes of the small models, and last the whole one."""
    part, layers = anatomy.feed_forwards[0], len(anatomy.blocks)
    heads = head_levels(anatomy, settings.head_levels)
    channels = channel_levels(part.channels, settings.channel_levels, settings.step)
    few = min(settings.layers, layers)
    alone = [] if few == 1 else _spread(heads, channels)
    pairs = _best(heads, channels, few, alone, settings.seed)
    found = [uniform(few, *pair) for pair in pairs] + [uniform(1, *pair) for pair in alone]
    whole = uniform(layers, heads[-1], channels[-1])
    return [*(shape for shape in dict.fromkeys(found) if shape != whole), whole]


def uniform(layers: int, heads: int, channels: int) -> Shape:
    """The first layers, all of one width."""
    return Shape(tuple(range(layers)), (heads,) * layers, (channels,) * layers)


def _spread(heads: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Four pairs from the least to the most, for models of one layer."""
    places = np.linspace(0, 1, 4)
    return [
        (heads[round(place * (len(heads) - 1))], channels[round(place * (len(channels) - 1))])
        for place in places
    ]


def _best(
    heads: Sequence[int],
    channels: Sequence[int],
    layers: int,
    alone: Sequence[tuple[int, int]],
    seed: int,
) -> list[tuple[int, int]]:
    """Pairs in which every level of both is, and nearly twice each of the fewer."""
    draw = np.random.default_rng(seed)
    count = len(heads) + len(channels)
    drawn = [
        list(zip(_repeated(heads, count, draw), _repeated(channels, count, draw), strict=True))
        for _ in range(_DRAWINGS)
    ]

    def uncertainty(pairs: Sequence[tuple[int, int]]) -> float:
        shapes = [uniform(layers, *pair) for pair in pairs]
        shapes += [uniform(1, *pair) for pair in alone]
        rows = np.array([row(shape, heads, channels) for shape in shapes])
        rows = rows / rows.sum(axis=1, keepdims=True)
        values = np.linalg.svd(rows, compute_uv=False)
        return float("inf") if values[-1] < 1e-9 * values[0] else float((values**-2).sum())

    return min(drawn, key=uncertainty)


def _repeated(levels: Sequence[int], count: int, draw: np.random.Generator) -> list[int]:
    """All levels again and again, up to a count, in a drawn order."""
    several = [levels[place % len(levels)] for place in range(count)]
    return [int(each) for each in draw.permutation(several)]


def row(shape: Shape, heads: Sequence[int], channels: Sequence[int]) -> np.ndarray:
    """A shape's line of the least squares: how often it has the rest, a layer, and each step from
    one level of heads, then of channels, to the next; between two levels a share of a step."""
    return np.concatenate(
        [
            [1.0, len(shape.layers)],
            _steps(shape.heads, heads),
            _steps(shape.channels, channels),
        ]
    )


def _steps(counts: Sequence[int], levels: Sequence[int]) -> np.ndarray:
    ends = np.array(levels, float)
    inside = (np.array(counts, float)[:, None] - ends[:-1]) / np.diff(ends)
    return np.clip(inside, 0.0, 1.0).sum(axis=0)
