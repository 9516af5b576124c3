"""Times of levels by least squares from the times of whole small models.

Errors count relative to a model's time, more of a unit never takes less time, and neighbouring
steps are drawn together a little, so that a level that few models show follows its neighbours.
"""

from collections.abc import Sequence

import numpy as np

from edgeprune.search.shape import Shape
from edgeprune.search.times.design import row

_SMOOTH = 0.3
"""The weight of a change of slope, in shares of a typical model's time a whole range: on MiniLM 0.1
to 3 predict unseen models alike, and 0.01 lets each level's own noise through."""


def fit(
    shapes: Sequence[Shape],
    times: Sequence[float],
    heads: Sequence[int],
    channels: Sequence[int],
) -> np.ndarray:
    """The rest, a layer, and each step from one level of heads, then of channels, to the next; in
    the unit of `times`, all at least 0.

    Args:
        heads, channels: the levels, rising.
    """
    measured = np.asarray(times, float)
    rows = np.array([row(shape, heads, channels) for shape in shapes]) / measured[:, None]
    unit = float(np.median(measured))
    smooth = np.vstack(
        [_bends(heads, 2, rows.shape[1]), _bends(channels, 1 + len(heads), len(rows.T))]
    )
    smooth *= _SMOOTH / unit
    ones = np.concatenate([np.ones(len(rows)), np.zeros(len(smooth))])
    return non_negative(np.vstack([rows, smooth]), ones)


def _bends(levels: Sequence[int], first: int, width: int) -> np.ndarray:
    """A line for each inner level: the change of slope there, over the whole range."""
    sizes = np.diff(np.array(levels, float)) / max(1, levels[-1] - levels[0])
    lines = np.zeros((max(0, len(sizes) - 1), width))
    for place in range(len(lines)):
        lines[place, first + place] = 1 / sizes[place]
        lines[place, first + place + 1] = -1 / sizes[place + 1]
    return lines


def non_negative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The x >= 0 of least |rows x - wanted| (Lawson and Hanson, 1974: active sets).

    Args:
        rows: (equations, unknowns).
    """
    count = rows.shape[1]
    x, free = np.zeros(count), np.zeros(count, bool)
    enough = 1e-10 * float(np.abs(rows.T @ wanted).max(initial=1e-300))
    for _ in range(10 * count):
        pull = rows.T @ (wanted - rows @ x)
        pull[free] = -np.inf
        if free.all() or pull.max() <= enough:
            break
        free[int(pull.argmax())] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.lstsq(rows[:, free], wanted, rcond=None)[0]
            bound = free & (trial <= 0)
            if not bound.any():
                x = trial
                break
            share = (x[bound] / (x[bound] - trial[bound])).min()
            x = x + share * (trial - x)
            free &= x > 1e-15
    return x
