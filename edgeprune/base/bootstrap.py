"""Bootstrap intervals of quality measures."""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
Interval = tuple[float, float]


def bootstrap(
    statistic: Callable[[np.ndarray], dict[str, float]],
    rows: np.ndarray,
    strata: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % percentile bootstrap interval of each value of a statistic (Efron, 1979).

    A statistic of two models' difference, given the same rows of both, gives the interval of the
    paired difference: what makes a row hard for both models does not widen it.

    Args:
        statistic: values by name from indices of rows; NaN where those rows leave one undefined,
            and such resamples are left out.
        rows: the indices to draw from, [n].
        strata: the stratum of each row, [n]: resamples keep the size of every stratum.

    Returns:
        (low, high) by name, without values that no resample defines; empty for fewer than two rows,
        which have no spread.
    """
    if len(rows) < 2:
        return {}
    random = np.random.default_rng(seed)
    strata = np.zeros(len(rows), int) if strata is None else strata
    order = np.argsort(strata, kind="stable")
    _, first, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    starts, ends = np.repeat(first, sizes), np.repeat(first + sizes, sizes)
    drawn = [statistic(rows[order[random.integers(starts, ends)]]) for _ in range(RESAMPLES)]
    intervals = {}
    for name in drawn[0]:
        values = np.array([values[name] for values in drawn])
        defined = values[np.isfinite(values)]
        if len(defined):
            low, high = np.percentile(defined, [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    return intervals
