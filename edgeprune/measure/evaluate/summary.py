"""Values, differences and intervals of one model's rows, or of two models' same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from typing import Any

import numpy as np

from edgeprune.base.bootstrap import bootstrap
from edgeprune.measure.evaluate.classes import f1_precision_recall
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Quality, Scores, Summary


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


def by_class(candidate: Quality, baseline: Quality | None = None) -> dict[str, Summary]:
    """F1, precision and recall of every class that is true of a row or was found in one, by name;
    none where rows have no classes, and beside a baseline only where that has the same ones."""
    classes = candidate.classes
    if classes is None:
        return {}
    if baseline and (baseline.classes is None or baseline.classes.names != classes.names):
        baseline = None
    everything = np.arange(candidate.count)
    counts = [
        side.classes.counts(everything)
        for side in (candidate, baseline)
        if side is not None and side.classes
    ]
    there = np.flatnonzero(np.sum(counts, axis=(0, 1))).tolist()
    whole = summary(_flat(candidate, there), baseline and _flat(baseline, there)).to_json()

    def part(values: Mapping[str, Any], number: int) -> dict[str, Any]:
        named = {value: f"{value} {number}" for value in _OF_A_CLASS}
        return {value: values[key] for value, key in named.items() if key in values}

    return {
        classes.names[number]: Summary(
            rows=int(counts[0][2, number]),
            **{name: part(values, number) for name, values in whole.items()},
        )
        for number in there
    }


_OF_A_CLASS = ("f1", "precision", "recall")


def _flat(quality: Quality, there: Sequence[int]) -> Quality:
    """The values of these classes as a measure's own, so that every resample serves them all."""
    assert quality.classes is not None
    counts = quality.classes.counts
    names = [f"{value} {number}" for value in _OF_A_CLASS for number in there]

    def aggregate(drawn: Scores) -> dict[str, float]:
        values = f1_precision_recall(counts(drawn["row"])[:, there])
        return dict(zip(names, values.ravel().tolist(), strict=True))

    scores = {"row": np.arange(quality.count)}
    if quality.strata:
        scores |= {quality.strata: quality.scores[quality.strata]}
    return replace(quality, scores=scores, aggregate=aggregate, aggregate_of=None, groups=None)


def worst_first(parts: Mapping[str, Summary], name: str) -> list[tuple[str, Summary]]:
    """Classes or groups by name, those first whose value of that name became worst; without an
    original, or of equals, those of the worst value. Undefined ones are last."""
    sign = -1 if name in LOWER_IS_BETTER else 1

    def badness(entry: tuple[str, Summary]) -> tuple[float, float]:
        change, value = (entry[1].difference or {}).get(name), entry[1].values[name]
        if value is None:
            return inf, inf
        return sign * (change or 0.0), sign * value

    return sorted(parts.items(), key=badness)


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
