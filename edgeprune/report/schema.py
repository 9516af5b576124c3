"""What a report reads of records and result files, checked once where they are read.

Only shapes and types: the content itself is passed on as it was read. What earlier versions did not
record may be missing, and is never null.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from edgeprune.base.files import first_fault
from edgeprune.compress.cut.record import Cut
from edgeprune.compress.cut.vocabulary_record import Trimmed
from edgeprune.compress.prune.record import Pruned
from edgeprune.compress.quantize.record import Quantized
from edgeprune.compress.records import MISSING, Loaded, Values
from edgeprune.compress.recover.record import Recovered
from edgeprune.export.record import Exported
from edgeprune.export.rewrite.record import Rewritten
from edgeprune.measure.requirements import Requirements

Work = Literal["encoder", "prompt", "decode"]
Side = Literal["candidate", "baseline"]
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
_HOW = "sensitivity"


class _Read(BaseModel):
    """Keys that are not named here are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Settings(_Read):
    tokens: PositiveInt
    batch: PositiveInt
    threads: PositiveInt


class _Machine(_Read):
    processor: str | None
    onnxruntime: str | None


class _Side(_Read):
    name: str
    model_bytes: PositiveInt | None = None
    peak_memory_bytes: PositiveInt | None = None


class _Times(_Read):
    median_ms: PositiveFloat
    interval_ms: Ends = MISSING


class _Ratio(_Read):
    value: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat


class _Measure(_Read):
    candidate: _Times
    baseline: _Times = MISSING
    ratio: _Ratio = MISSING


class _Spent(_Read):
    ms: float


class _Profile(_Read):
    """Of one side: the operators' times, or why there are none."""

    missing: str = MISSING
    operators: dict[str, _Spent] = MISSING
    outside_share: float = MISSING
    run_ms: float = MISSING

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.operators is not None and None in (self.outside_share, self.run_ms):
            raise ValueError("operators without the time of a run")
        return self


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
    baseline: _Side = MISSING
    profile: dict[Work, dict[Side, _Profile]] = MISSING
    noise: _Noise = MISSING

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
    interval: dict[str, Ends] = MISSING
    original: Values = MISSING
    difference: Values = MISSING
    difference_interval: dict[str, Ends] = MISSING

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


class _WholeSettings(_Settings):
    width: float


class _WholeTimes(_Times):
    p95_ms: float
    tokens_per_second: float
    texts_per_second: float = MISSING


class _WholeMeasure(_Measure):
    candidate: _WholeTimes
    baseline: _WholeTimes
    ratio: _Ratio
    settled: bool


class _WholeSpeed(Speed):
    settings: _WholeSettings
    candidate: _Whole
    baseline: _Whole
    measures: Annotated[Mapping[Work, _WholeMeasure], Field(min_length=1)]

    @model_validator(mode="after")
    def _texts(self) -> Self:
        found = self.measures.get("encoder")
        if found and None in (found.candidate.texts_per_second, found.baseline.texts_per_second):
            raise ValueError("an encoder's times without texts a second")
        return self


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


class _Sparse(_Read):
    instruction_set: str | None = None


class _Stage(_Read):
    """What any stage recorded."""

    name: str
    seconds: float
    peak_megabytes: float


class Measured(_Stage):
    """What the stage measure recorded."""

    speed: _WholeSpeed
    quality: Annotated[list[Evaluation], Field(min_length=1)]
    neighbours: _Neighbours | None = None
    curve: list[_Point] = MISSING
    stages: list[_StageMeasured] = MISSING
    sparse: _Sparse = MISSING
    batching: _Batching = MISSING


class _Loaded(Loaded, _Stage):
    """The model that a build started from."""


class _Trimmed(Trimmed, _Stage):
    """A vocabulary's trimming."""


class _Exported(Exported, _Stage):
    """A graph in float32."""


class _Pruned(Pruned, _Stage):
    """A pruning, before the cut or after it."""


class _Cut(Cut, _Stage):
    """A cut."""


class _Recovered(Recovered, _Stage):
    """A recovery."""


class _Quantized(Quantized, _Stage):
    """A quantization."""


class _Rewritten(Rewritten, _Stage):
    """A rewriting."""


STAGES: dict[str, type[_Stage]] = {
    "load": _Loaded,
    "original": _Exported,
    "vocabulary": _Trimmed,
    "prune": _Pruned,
    "cut": _Cut,
    "sparsify": _Pruned,
    "recover": _Recovered,
    "quantize": _Quantized,
    "export": _Exported,
    "rewrite": _Rewritten,
    "measure": Measured,
}


def _by_name(record: Any) -> Any:
    """A stage's record by what its stage records; other stages' are passed over."""
    name = record.get("name") if isinstance(record, dict) else None
    try:
        return STAGES.get(str(name), _Stage).model_validate(record)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


class _Source(_Read):
    model: str
    sha256: str | None = None


class _Text(_Read):
    documents: int
    source: str
    digest: str | None = None


class _RecipeMeasure(_Read):
    task: str | None = None


class _Recipe(_Read):
    name: str = MISSING
    description: str = MISSING
    measure: _RecipeMeasure = MISSING
    require: Requirements | None = None
    prune: dict[str, Any] | None = None
    sparsify: dict[str, Any] | None = None
    quantize: dict[str, Any] | None = None


class Content(_Read):
    """A report.json or a manifest."""

    task: str = MISSING
    source: _Source = MISSING
    text: _Text = MISSING
    recipe: _Recipe = MISSING
    stages: list[Annotated[Any, AfterValidator(_by_name)]] = MISSING

    @model_validator(mode="after")
    def _asked(self) -> Self:
        """A build has a task, and its recipe the settings of the stages that ran by them."""
        if self.stages and self.task is None:
            raise ValueError("a build without its task")
        for stage in self.stages or []:
            asked = getattr(self.recipe, stage.name, None)
            if isinstance(stage, _Pruned) and stage.pools and asked is None:
                raise ValueError(f"a recipe without the stage {stage.name}, which ran")
            if isinstance(stage, _Quantized) and stage.costs and not (asked or {}).get(_HOW):
                raise ValueError(f"costs without the recipe's quantize.{_HOW}")
            drop = self.recipe and self.recipe.require and self.recipe.require.drop
            paired = isinstance(stage, Measured) and any(each.difference for each in stage.quality)
            if isinstance(stage, Measured) and drop is not None and not paired:
                raise ValueError("require.drop without a quality that the original has too")
        return self
