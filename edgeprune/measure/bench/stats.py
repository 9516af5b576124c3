"""Medians, percentiles, and the intervals of paired ratios: within a launch, and over several.

The turns of a launch share what its processes drew when they started: where their memory lies,
their core, who was first. An interval from turns alone does not see that: of 100 comparisons of a
graph with itself, 64 of such intervals held the truth. Launches are what repeats, so
`ratio_of_launches` takes one value of each.
"""

import functools
import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from edgeprune.measure.bench.record import Ratio

RESAMPLES = 2000
_POLISHES = 20


def median(values: Sequence[float] | np.ndarray) -> float:
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
    ratios = _ratios(numerators, denominators)
    drawn = np.random.default_rng(seed).integers(0, ratios.size, (RESAMPLES, ratios.size))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(
        value=float(np.median(ratios)), low=float(low), high=float(high), pairs=ratios.size
    )


def ratio_of_launches(
    numerators: Sequence[Sequence[float]],
    denominators: Sequence[Sequence[float]],
    seed: int = 0,
) -> Ratio:
    """The geometric mean over launches of `paired_ratio`'s medians, with its 95 % interval.

    The interval is Student's, of the launches' logarithms. In simulations of launches that differ
    by 0.6 to 2 %, with turns that drift by 1 to 5 % and with or without bursts in a tenth of the
    launches, 4 to 10 launches had the truth inside 94.6 to 96.7 % of such intervals; percentile
    bootstraps over as many had it inside 78 to 92 %, since so few values hardly tell their own
    spread. One launch alone has `paired_ratio`'s interval, which holds for that launch.

    Args:
        numerators, denominators: [launches][pairs], as `paired_ratio` takes the pairs of each.

    Raises:
        ValueError: as `paired_ratio`, or the two have not the same number of launches.
    """
    if len(numerators) == len(denominators) == 1:
        alone = paired_ratio(numerators[0], denominators[0], seed)
        return alone.model_copy(update={"launches": 1})
    found = [_ratios(*pairs) for pairs in zip(numerators, denominators, strict=True)]
    logs = [math.log(median(ratios)) for ratios in found]
    middle = fmean(logs)
    half = student(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Ratio(
        value=math.exp(middle),
        low=math.exp(middle - half),
        high=math.exp(middle + half),
        pairs=sum(len(ratios) for ratios in found),
        launches=len(found),
    )


def polished(turns: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """The typical time of each of several subjects, freed of what slowed whole rounds.

    Times are a subject's factor and a round's; medians of the logarithms are taken out of subjects
    and rounds by turns until they rest (Tukey's median polish, 1977). A round in which the machine
    was half as fast so moves no subject against another.

    Args:
        turns: [subjects][launches][turns], of one round each, above zero.
    """
    launches = [np.log(np.array(launch, float)) for launch in zip(*turns, strict=True)]
    left = np.concatenate(launches, axis=1)
    for _ in range(_POLISHES):
        own = np.median(left, axis=1, keepdims=True)
        left = left - np.median(left - own, axis=0, keepdims=True)
    common = np.median(np.concatenate(launches, axis=1) - left)
    return [float(value) for value in np.exp(np.median(left, axis=1) + common)]


def _ratios(numerators: Sequence[float], denominators: Sequence[float]) -> np.ndarray:
    """The ratio of each pair; errors as of `paired_ratio`."""
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    if top.shape != bottom.shape or not top.size:
        raise ValueError("paired measurements must come in pairs")
    if not (np.all(top > 0) and np.all(bottom > 0)):
        raise ValueError("measurements must be above zero")
    return top / bottom


@functools.cache
def student(freedom: int, share: float = 0.95) -> float:
    """The t within which Student's distribution holds a share, by numeric integration.

    With t = sqrt(freedom) tan(angle) its density is cos(angle) ** (freedom - 1), up to a factor.
    """
    angles = np.linspace(0.0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(share * below[-1], below, angles)))
