"""Values, differences and intervals of one model's rows, or of two models' same rows."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from edgeprune.base.bootstrap import bootstrap
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Quality, Summary


def summary(
    candidate: Quality, baseline: Quality | None = None, rows: np.ndarray | None = None
) -> Summary:
    """Summarize the rows (all, or the chosen indices), of one model or of both."""
    chosen: dict[str, Any] = {}
    if rows is not None:
        chosen["rows"] = rows.size
        candidate, baseline = candidate.among(rows), baseline and baseline.among(rows)
    values, everything = candidate.values(), np.arange(candidate.count)
    strata = candidate.scores[candidate.strata] if candidate.strata else None
    interval = bootstrap(candidate.values, everything, strata)
    if baseline is None:
        return Summary(**chosen, values=_finite(values), interval=interval)
    original, of_baseline = baseline.values(), baseline.values
    paired = {}
    if candidate.count == baseline.count:
        paired = bootstrap(
            lambda drawn: _minus(candidate.values(drawn), of_baseline(drawn)), everything, strata
        )
    return Summary(
        **chosen,
        values=_finite(values),
        interval=interval,
        original=_finite(original),
        difference=_finite(_minus(values, original)),
        difference_interval=paired,
    )


def by_group(candidate: Quality, baseline: Quality | None = None) -> dict[str, Summary]:
    """Every group's summary."""
    labels = np.array(candidate.groups)
    return {
        str(label): summary(candidate, baseline, np.flatnonzero(labels == label))
        for label in np.unique(labels)
    }


def worst(values: Mapping[str, Mapping[str, float | None] | None]) -> dict[str, str]:
    """The group with the worst of each value; one that leaves a value undefined takes no part.

    Args:
        values: by group, values or differences by name.
    """
    found = {}
    for name in next(iter(values.values())) or ():
        sign = -1 if name in LOWER_IS_BETTER else 1
        known = {
            group: sign * value
            for group, each in values.items()
            if (value := (each or {}).get(name)) is not None
        }
        if known:
            found[name] = min(known, key=lambda group: known[group])
    return found


def _minus(values: dict[str, float], original: dict[str, float]) -> dict[str, float]:
    return {name: value - original[name] for name, value in values.items()}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in values.items()}
