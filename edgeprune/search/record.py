"""The record of a search: the models of its front, every trial, and what was asked."""

from typing import Any

from pydantic import Field

from edgeprune.base.record import Ends, Many, Record
from edgeprune.measure.bench.record import Ratio
from edgeprune.search.shape import Shape


class Found(Record):
    """A model of the front: a bundle, measured beside the original."""

    name: str
    """Of its folder."""
    shape: dict[str, Any] | None
    """Layers, heads and channels; None where nothing was cut."""
    minutes: float
    """Of training, without that of the model it went on from."""
    asked: float | None
    """The speedup for which it was made."""
    predicted: float
    """The speedup by the table of times, before it was timed."""
    speedup: Ratio
    ms: float
    original_ms: float
    megabytes: float
    memory_megabytes: float | None
    loss: float
    """By the measure that judges: points, or per cent of a perplexity."""
    loss_interval: Ends | None
    loss_of: str
    loss_unit: str
    held_out: float
    """The same on held-out text, by which candidates were told apart."""
    judged_on: tuple[str, int] | None = Field(None, strict=False)
    """The rows that judged: their name, and how many there were."""


class Brief(Record):
    """A candidate that was trained briefly."""

    name: str
    of: str
    """The model for which it was a candidate."""
    shape: dict[str, Any]
    minutes: float
    predicted: float
    speedup: float
    held_out: float
    chosen: bool


class SearchRecord(Record):
    """A search as far as it came."""

    model: str
    text: str
    wish: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any]
    table_error: float
    """The median error of the table of times over the models that it was fitted to."""
    models: Many[Found]
    trials: Many[Brief]
    best: str | None
    """The name of the model that answers the wish; of a front, none."""
    verdict: Many[str]
    """Sentences on each limit: how it is met, or by how much it is missed."""
    seconds: float
    finished: bool
    """False: the search was stopped, and this is what it had."""
    hours_over: bool = False
    """Whether its hours were over before there were enough models."""


def plain(shape: Shape) -> dict[str, Any]:
    """A shape as plain JSON values."""
    return {name: list(each) for name, each in vars(shape).items()}


def shape_of(content: dict[str, Any]) -> Shape:
    """The shape that plain JSON values are."""
    return Shape(*(tuple(content[name]) for name in ("layers", "heads", "channels")))
