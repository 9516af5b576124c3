"""The scores that a quality measure returns, and the result that is made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from edgeprune.base.record import Ends, Many, Record
from edgeprune.measure.evaluate.classes import Classes

# What each row scored, by name: arrays whose first axis is the rows.
Scores = dict[str, np.ndarray]
Aggregate = Callable[[Scores], dict[str, float]]

# Of all values that the measures name, those of which less is better.
LOWER_IS_BETTER = frozenset(
    {
        "perplexity",
        "masked_perplexity",
        "nats_per_token",
        "kl_nats_per_token",
        "ece",
        "brier",
        "nll",
        "choice_only",
        "both_wrong",
        "illusion",
        "ranking_loss",
    }
)


@dataclass(frozen=True)
class Quality:
    """The scores of rows, the aggregate that makes values of them, and what they were measured on.

    Everything that needs rows works by this alone: the values themselves, their bootstrap
    intervals, differences to another model on the same rows, and groups.

    scores: a row is a text, a pair, an item or a window.
    aggregate: the values, by name, of any choice of rows of the scores; the first is the main one.
    groups: the group of each row, where rows were asked for by groups.
    strata: the name of a score that says what a row is, such as its true class, so that a resample
        draws as many of each; None where rows are alike.
    aggregate_of: the aggregate of resamples of some scores, where it depends on them, such as on
        which classes there are.
    classes: what is counted class by class, where rows have any.
    """

    scores: Scores
    aggregate: Aggregate
    conditions: dict[str, int]
    groups: Sequence[str] | None = None
    strata: str | None = None
    aggregate_of: Callable[[Scores], Aggregate] | None = None
    classes: Classes | None = None

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(next(iter(self.scores.values())))

    def values(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """The measured values, over all rows or over the chosen ones (indices, repeated or not)."""
        return self.aggregate(self.scores if rows is None else _chosen(self.scores, rows))

    def among(self, rows: np.ndarray) -> "Quality":
        """Of these rows alone (indices), without groups and classes."""
        scores = _chosen(self.scores, rows)
        aggregate = self.aggregate_of(scores) if self.aggregate_of else self.aggregate
        return replace(self, scores=scores, aggregate=aggregate, groups=None, classes=None)


def _chosen(scores: Scores, rows: np.ndarray) -> Scores:
    return {name: score[rows] for name, score in scores.items()}


def percentages(scores: Scores) -> dict[str, float]:
    """The mean of each score, times 100: the aggregate of scores that are shares or yes and no."""
    return {name: 100 * float(np.mean(score)) for name, score in scores.items()}


Values = Annotated[dict[str, float], Field(min_length=1)]
"""Measured values by name; the first is the main one."""


class Sample(Record):
    """Which part of the data a limit left: `taken` of `of` rows or windows."""

    taken: int
    of: int
    unit: str
    seed: int | None
    """None for the first ones."""
    by: Many[str]
    """The fields whose values keep their shares."""


class Summary(Record):
    """Values of some rows with their intervals (95 %: low and high; absent where undefined).

    With an original, also its values, the differences to them, and the intervals of the paired
    differences, empty where the two models' rows are not the same ones. A value that the rows leave
    undefined is None.
    """

    rows: int | None = None
    """Of a group or a class: how many there are; of entities, of a kind."""
    values: dict[str, float | None]
    interval: dict[str, Ends]
    original: dict[str, float | None] | None = None
    difference: dict[str, float | None] | None = None
    difference_interval: dict[str, Ends] | None = None


class Change(Record):
    """A text whose class the original found and the bundle did not; or one of several labels of a
    text, which the original rightly found, or left out, and the bundle did not."""

    text: str
    label: str
    found: str
    """The class that the bundle found instead; of several labels, those that it found."""


class Changes(Record):
    """Texts that only one of the two models classifies rightly; or labels of texts, where these
    have several."""

    of: Literal["text", "label"] = "text"
    right_to_wrong: int
    """By the original, and by the bundle."""
    wrong_to_right: int
    right_to_wrong_by_class: dict[str, int]
    """By the true class, of each that the texts have; or by the label."""
    wrong_to_right_by_class: dict[str, int]
    examples: Many[Change] | None = None
    """Some of those that are wrong now, where they were asked for."""


class Evaluation(Record):
    """The result of a quality measure on a bundle, beside the original's where it was given one."""

    task: str
    data: str
    bundle: str | None = None
    graph: str | None = None
    """The SHA-256 of its graph, where it has a manifest."""
    against: str | None = None
    conditions: dict[str, int]
    """The counts of what was measured, such as texts, windows and tokens."""
    sample: Sample | None = None
    """The part of the data that was measured, where a limit left some out."""
    values: Values
    interval: dict[str, Ends] | None = None
    original: Values | None = None
    difference: Values | None = None
    difference_interval: dict[str, Ends] | None = None
    group: str | None = None
    """The field by whose values there are groups."""
    groups: dict[str, Summary] | None = None
    worst: dict[str, str] | None = None
    """The group with the worst value, by the value's name."""
    largest_loss: dict[str, str] | None = None
    """The group whose difference is worst."""
    classes: dict[str, Summary] | None = None
    """F1, precision and recall of every class, where rows have classes."""
    changes: Changes | None = None
    """Of texts with classes, beside an original."""
    rows: dict[str, dict[str, list[Any]]] | None = None
    """The scores of each row, of "bundle" and, where it has rows of its own, "original"."""

    @model_validator(mode="after")
    def _beside(self) -> Self:
        if self.original is not None and not all(
            self.values.keys() <= (each or {}).keys() for each in (self.original, self.difference)
        ):
            raise ValueError("an original without its values and differences")
        return self
