"""Medians, percentiles, and the interval of a paired ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % interval, from `pairs` pairs."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def width(self) -> float:
        """The interval's width as a share of the ratio."""
        return (self.high - self.low) / self.value


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
    return Ratio(float(np.median(ratios)), float(low), float(high), ratios.size)
