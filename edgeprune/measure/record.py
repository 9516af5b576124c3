"""The record of a build's measurement: the bundle beside the original."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from edgeprune.base.record import Ends, Many, Record
from edgeprune.measure.bench.record import Comparison, Count, Point, Ratio
from edgeprune.measure.evaluate.result import Evaluation


class MeasuredStage(Record):
    """The model that a stage left, in float32, beside the original."""

    name: str
    speed: Comparison
    quality: Annotated[Many[Evaluation], Field(min_length=1)]


class Batching(Record):
    """Whether what a text gets depends on the texts beside it: each alone, and in batches of
    `batch`."""

    batch: PositiveInt
    texts: PositiveInt
    mean_change: float | None = None
    """Of classifiers: of the probability of any label."""
    largest_change: float | None = None
    mean_cosine: float | None = None
    """Of embeddings."""
    least_cosine: float | None = None


class Overlap(Record):
    """The share of a text's nearest ones by the original that are the result's nearest, in per
    cent."""

    overlap_at_10: float
    recall_at_10: float


class Mixed(Record):
    """The same share where vectors of both models stand in one index, in per cent; see the measure
    `mixing`."""

    new_overlap_at_10: float
    new_queries_overlap_at_10: float
    new_documents_overlap_at_10: float
    half_new_overlap_at_10: float


class Neighbours(Record):
    """The order in which an encoder finds held-out texts, beside the original's; nothing of texts
    so few that all are neighbours."""

    data: str = ""
    task: str | None = None
    values: Overlap | None = None
    interval: dict[str, Ends] | None = None
    conditions: dict[str, int] | None = None
    mixed: Mixed | None = None
    """Absent where the two models' vectors are not of one size."""


class Sparse(Record):
    """A bundle's sparse linears: what they were predicted to take in one call, and what they take.

    Predictions are by the target's table, None where it has no such figure. Nothing is measured
    where the operator library is not installed.
    """

    linears: Count | None = None
    predicted_rows: Count | None = None
    predicted_us: float | None = None
    dense_predicted_us: float | None = None
    instruction_set: str | None = None
    """None where the library is not installed."""
    measured_rows: Count | None = None
    measured_us: float | None = None
    """Of all of them, by the runtime's profile."""
    over_stock: Ratio | None = None
    """The speedup of the whole call over the same without the library."""


class CacheAt(Record):
    """A quantized cache beside a float one at one length of the context."""

    prompt: Ratio
    decode: Ratio
    peak_memory_bytes: Count | None
    float_peak_memory_bytes: Count | None


class Cache(Record):
    """A quantized key-value cache beside a float one."""

    bytes_per_token: float
    float_bytes_per_token: float
    contexts: dict[str, CacheAt]
    """By tokens of the context."""
    decode_pays_from: int | None
    """The shortest context that was measured from which on the ratio's interval is above 1."""
    prompt_pays_from: int | None


class Measured(Record):
    """A build's own measurement."""

    speed: Comparison
    quality: Annotated[Many[Evaluation], Field(min_length=1)]
    """On held-out text, then on the user's own data."""
    curve: Many[Point] | None = None
    """The times at other lengths of text, briefly."""
    stages: Many[MeasuredStage] | None = None
    batching: Batching | None = None
    neighbours: Neighbours | None = None
    sparse: Sparse | None = None
    cache: Cache | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for side in self.speed.sides.values():
            if not (side.model_bytes and side.peak_memory_bytes):
                raise ValueError("a build's speed without bytes and memory")
        return self
