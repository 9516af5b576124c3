"""Medians, percentiles, and the interval of a paired ratio."""

from collections.abc import Sequence

import numpy as np

from edgeprune.measure.bench.record import Ratio

RESAMPLES = 2000


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The `share` (0 to 100) percentile, interpolated linearly."""
    return float(np.percentile(values, share))


def paired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], seed: int = 0
) -> Ratio:
    """Median of the ratios of paired measurements, with its 95 % bootstrap interval.

    Both lists hold one value a pair, taken close in time, so that what disturbs the machine for
    longer than a pair disturbs both and leaves the ratio alone. Pairs are resampled whole
    (percentile bootstrap; Efron, 1979).

    Raises:
        ValueError: the lists are empty or differ in length, or a value is not above zero.
    """
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    if top.shape != bottom.shape or not top.size:
        raise ValueError("paired measurements must come in pairs")
    if not (np.all(top > 0) and np.all(bottom > 0)):
        raise ValueError("measurements must be above zero")
    ratios = top / bottom
    drawn = np.random.default_rng(seed).integers(0, ratios.size, (RESAMPLES, ratios.size))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(
        value=float(np.median(ratios)), low=float(low), high=float(high), pairs=ratios.size
    )
