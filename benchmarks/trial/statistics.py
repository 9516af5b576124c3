"""Paired differences between budgets, their intervals, and the rule that decides."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Row = Mapping[str, Any]
"""One run: what the cell was, and what was measured."""


@dataclass(frozen=True)
class Paired:
    """Mean of paired differences with Student's 95 % interval; NaN for fewer than two pairs."""

    mean: float
    low: float
    high: float
    pairs: int


def interval(differences: Sequence[float]) -> Paired:
    """Student's 95 % interval of the mean difference."""
    count = len(differences)
    if count < 2:
        return Paired(math.nan, math.nan, math.nan, count)
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return Paired(mean, mean - half, mean + half, count)


def paired(
    rows: Iterable[Row], candidate: str, baseline: str, value: str = "metric", **where: str
) -> Paired:
    """Interval of value(candidate) - value(baseline), two budgets, over seeds.

    where: fields that rows must have. A seed's difference is the mean over all pairs of that seed
    (such as several saliencies): seeds are what is independent.
    """
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if row["budget"] in (candidate, baseline) and all(
            row[key] == v for key, v in where.items()
        ):
            key = (row["seed"], row["tier"], row["variant"], row["saliency"], row["condition"])
            found.setdefault(key, {})[row["budget"]] = row[value]
    by_seed: dict[int, list[float]] = {}
    for (seed, *_), pair in found.items():
        if len(pair) == 2:
            by_seed.setdefault(seed, []).append(pair[candidate] - pair[baseline])
    return interval([float(np.mean(each)) for each in by_seed.values()])


def decide(against_cubic: Paired, against_static: Paired) -> str:
    """The rule set down before the trial: "helps" only where both intervals lie above zero."""
    if min(against_cubic.pairs, against_static.pairs) < 2:
        return "not run"
    if against_cubic.low > 0 and against_static.low > 0:
        return "helps"
    if against_cubic.high < 0 and against_static.high < 0:
        return "harms"
    return "not shown"


def spread(rows: Iterable[Row], value: str, **where: str) -> tuple[float, float, int]:
    """Mean and standard deviation over runs, and how many."""
    found = [row[value] for row in rows if all(row[key] == v for key, v in where.items())]
    deviation = float(np.std(found, ddof=1)) if len(found) > 1 else math.nan
    return (float(np.mean(found)) if found else math.nan, deviation, len(found))


def seed_spread(rows: Sequence[Row], budget: str, condition: str) -> float:
    """Standard deviation of the metric over seeds, root mean square over saliencies."""
    kept = [row for row in rows if row["variant"] == "core" and row["condition"] == condition]
    saliencies = {row["saliency"] for row in kept}
    found = [spread(kept, "metric", budget=budget, saliency=each)[1] for each in saliencies]
    return float(np.sqrt(np.mean(np.square(found))))
