"""Paired differences between arms, and their intervals over seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Row = Mapping[str, Any]
"""One arm of one seed and condition, and what was measured."""
Choice = tuple[str, str]
"""A budget and its averages."""


@dataclass(frozen=True)
class Paired:
    """A difference with its 95 % interval over seeds; NaN for fewer than two seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    def inside(self, margin: float) -> bool:
        """Whether the whole interval lies between -margin and margin."""
        return self.low > -margin and self.high < margin


def interval(differences: Sequence[float]) -> Paired:
    """Student's 95 % interval of the mean difference."""
    count = len(differences)
    if count < 2:
        return Paired(math.nan, math.nan, math.nan, count)
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return Paired(mean, mean - half, mean + half, count)


def chosen(rows: Iterable[Row], conditions: Sequence[str], saliencies: Sequence[str]) -> list[Row]:
    """The rows of these conditions and saliencies."""
    return [r for r in rows if r["condition"] in conditions and r["saliency"] in saliencies]


def paired(
    rows: Iterable[Row], candidate: Choice, baseline: Choice, value: str = "metric"
) -> Paired:
    """Interval of value(candidate) - value(baseline) over seeds.

    A seed's difference is the mean over all of its pairs (such as several saliencies): seeds are
    what is independent.
    """
    found: dict[tuple[Any, ...], dict[Choice, float]] = {}
    for row in rows:
        key = (row["seed"], row["saliency"], row["condition"])
        found.setdefault(key, {})[_choice(row)] = row[value]
    by_seed: dict[int, list[float]] = {}
    for (seed, *_), pair in found.items():
        if candidate in pair and baseline in pair:
            by_seed.setdefault(seed, []).append(pair[candidate] - pair[baseline])
    return interval([float(np.mean(each)) for each in by_seed.values()])


def of_choice(rows: Iterable[Row], choice: Choice, value: str) -> dict[int, list[float]]:
    """Seed -> a value of all of its rows that have this budget and these averages."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if _choice(row) == choice:
            found.setdefault(row["seed"], []).append(row[value])
    return found


def bootstrap(
    candidate: Mapping[int, Sequence[float]],
    baseline: Mapping[int, Sequence[float]],
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int,
) -> Paired:
    """Interval of statistic(candidate) - statistic(baseline), seeds drawn with replacement.

    candidate, baseline: seed -> values of its runs, as many of each seed. statistic: of values
    [samples, runs] one for each sample. The bootstrap's 2.5 and 97.5 percentiles.
    """
    seeds = sorted(candidate.keys() & baseline.keys())
    if len(seeds) < 2:
        return Paired(math.nan, math.nan, math.nan, len(seeds))
    sides = [np.array([side[seed] for seed in seeds]) for side in (candidate, baseline)]
    drawn = np.random.default_rng(0).integers(len(seeds), size=(resamples, len(seeds)))

    def difference(picked: np.ndarray) -> np.ndarray:
        first, second = (statistic(side[picked].reshape(len(picked), -1)) for side in sides)
        return first - second

    low, high = np.percentile(difference(drawn), (2.5, 97.5))
    (found,) = difference(np.arange(len(seeds))[None])
    return Paired(float(found), float(low), float(high), len(seeds))


def _choice(row: Row) -> Choice:
    return row["budget"], row["averages"]
