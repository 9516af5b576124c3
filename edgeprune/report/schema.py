"""What a report reads of records and result files, checked once where they are read.

Only shapes and types: the content itself is passed on as it was read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from edgeprune.errors import UserError
from edgeprune.measure.settings import Requirements

Kind = TypeVar("Kind", bound=BaseModel)
Work = Literal["encoder", "prompt", "decode"]
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
Values = Annotated[dict[str, float], Field(min_length=1)]


class _Read(BaseModel):
    """Keys that are not named here are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Settings(_Read):
    tokens: PositiveInt
    batch: PositiveInt
    threads: PositiveInt


class _Machine(_Read):
    processor: str | None
    onnxruntime: str | None = None


class _Side(_Read):
    name: str
    model_bytes: PositiveInt | None = None
    peak_memory_bytes: PositiveInt | None = None


class _Times(_Read):
    median_ms: PositiveFloat
    interval_ms: Ends | None = None


class _Ratio(_Read):
    value: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat


class _Measure(_Read):
    candidate: _Times
    baseline: _Times | None = None
    ratio: _Ratio | None = None


class _Spent(_Read):
    ms: float


class _Profile(_Read):
    """Of one side: the operators' times, or why there are none."""

    missing: str | None = None
    operators: dict[str, _Spent] = {}
    outside_share: float = 0.0
    run_ms: float = 0.0


class _Noise(_Read):
    noisy: bool
    why: list[str]


class _Point(_Read):
    settings: _Settings
    measures: Annotated[Mapping[Work, _Measure], Field(min_length=1)]


class Speed(_Point):
    """What bench's `measure` or `compare` returned."""

    machine: _Machine
    candidate: _Side
    baseline: _Side | None = None
    profile: dict[Work, dict[str, _Profile]] = {}
    noise: _Noise | None = None

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if self.baseline and not all(
            each.ratio and each.baseline for each in self.measures.values()
        ):
            raise ValueError("a baseline without its times and ratios")
        return self


class Evaluation(_Read):
    """What `evaluate` returned."""

    task: str
    data: str
    values: Values
    conditions: dict[str, Any]
    interval: dict[str, Ends] = {}
    original: Values | None = None
    difference: Values | None = None
    difference_interval: dict[str, Ends] = {}

    @model_validator(mode="after")
    def _beside(self) -> Self:
        if self.original is not None and not all(
            self.values.keys() <= (each or {}).keys() for each in (self.original, self.difference)
        ):
            raise ValueError("an original without its values and differences")
        return self


class NamedEvaluation(Evaluation):
    """One that says what it was measured of."""

    bundle: str


class _Whole(_Side):
    model_bytes: PositiveInt
    peak_memory_bytes: PositiveInt


class _WholeTimes(_Times):
    p95_ms: float
    tokens_per_second: float


class _WholeMeasure(_Measure):
    candidate: _WholeTimes
    baseline: _WholeTimes
    ratio: _Ratio
    settled: bool


class _WholeSpeed(Speed):
    candidate: _Whole
    baseline: _Whole
    measures: Annotated[Mapping[Work, _WholeMeasure], Field(min_length=1)]


class _StageMeasured(_Read):
    name: str
    speed: Speed
    quality: Annotated[list[Evaluation], Field(min_length=1)]


class _Batching(_Read):
    batch: PositiveInt
    texts: PositiveInt
    mean_cosine: float | None = None
    least_cosine: float | None = None
    mean_change: float | None = None
    largest_change: float | None = None


class _Overlap(_Read):
    overlap_at_10: float
    recall_at_10: float


class _Neighbours(_Read):
    """Of an encoder's held-out texts; nothing where they were too few."""

    data: str = ""
    values: _Overlap | None = None


class Measured(_Read):
    """What the stage measure recorded."""

    speed: _WholeSpeed
    quality: Annotated[list[Evaluation], Field(min_length=1)]
    neighbours: _Neighbours | None = None
    curve: list[_Point] = []
    stages: list[_StageMeasured] = []
    batching: _Batching | None = None


class _Stage(_Read):
    name: str
    seconds: float | None = None
    peak_megabytes: float | None = None


class _Source(_Read):
    model: str
    sha256: str | None = None


class _Text(_Read):
    documents: int
    source: str
    digest: str | None = None


class _Recipe(_Read):
    name: str | None = None
    description: str = ""
    measure: dict[str, Any] = {}
    require: Requirements | None = None


class Content(_Read):
    """A report.json or a manifest."""

    task: str | None = None
    source: _Source | None = None
    text: _Text | None = None
    recipe: _Recipe | None = None
    stages: list[_Stage] = []


def check(kind: type[Kind], content: Any, file: Path, remedy: str) -> Kind:
    """What a kind reads of content; content that is not of the kind is refused.

    Args:
        remedy: what to do about it, as a sentence's end.

    Raises:
        UserError: it is another, damaged at a place that the sentence names.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{file} is damaged ({place}: {first['msg']}): {remedy}.") from None
