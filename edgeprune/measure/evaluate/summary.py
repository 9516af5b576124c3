"""Values, differences and intervals of one model's rows, or of two models' same rows."""

from math import isfinite
from typing import Any

import numpy as np

from edgeprune.base.bootstrap import bootstrap
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Quality


def summary(
    ours: Quality, theirs: Quality | None = None, rows: np.ndarray | None = None
) -> dict[str, Any]:
    """What the rows (all, or the chosen indices) say, as plain JSON values.

    Returns:
        "values" and "interval" (95 %: low and high by name; absent where undefined); with `theirs`
        also "original", "difference" (values - original) and "difference_interval": of the paired
        difference, empty where the two models' rows are not the same ones. A value that the rows
        leave undefined is None.
    """
    if rows is not None:
        ours, theirs = ours.among(rows), theirs and theirs.among(rows)
    values, everything = ours.values(), np.arange(ours.count)
    strata = ours.scores[ours.strata] if ours.strata else None
    found: dict[str, Any] = {
        "values": _plain(values),
        "interval": _lists(bootstrap(ours.values, everything, strata)),
    }
    if theirs is None:
        return found
    original, its = theirs.values(), theirs.values
    paired = (
        bootstrap(lambda drawn: _minus(ours.values(drawn), its(drawn)), everything, strata)
        if ours.count == theirs.count
        else {}
    )
    return found | {
        "original": _plain(original),
        "difference": _plain(_minus(values, original)),
        "difference_interval": _lists(paired),
    }


def by_group(ours: Quality, theirs: Quality | None = None) -> dict[str, Any]:
    """Every group's summary, and the worst group for each value.

    Returns:
        "groups": a summary with "rows" (how many) by group; "worst": the group with the worst value
        by the value's name; with `theirs` "largest_loss": the group whose difference is worst. A
        group that leaves a value undefined takes no part.
    """
    labels = np.array(ours.groups)
    groups = {
        str(label): {"rows": int((labels == label).sum())}
        | summary(ours, theirs, np.flatnonzero(labels == label))
        for label in np.unique(labels)
    }
    found: dict[str, Any] = {"groups": groups, "worst": _worst(groups, "values")}
    if theirs is not None:
        found["largest_loss"] = _worst(groups, "difference")
    return found


def _worst(groups: dict[str, Any], kind: str) -> dict[str, str]:
    worst = {}
    for name in next(iter(groups.values()))["values"]:
        sign = -1 if name in LOWER_IS_BETTER else 1
        values = {
            group: sign * each[kind][name]
            for group, each in groups.items()
            if each[kind][name] is not None
        }
        if values:
            worst[name] = min(values, key=lambda group: values[group])
    return worst


def _minus(values: dict[str, float], original: dict[str, float]) -> dict[str, float]:
    return {name: value - original[name] for name, value in values.items()}


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in values.items()}


def _lists(intervals: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: list(interval) for name, interval in intervals.items()}
