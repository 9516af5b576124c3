"""What a report reads of records and result files, checked once where they are read.

Only shapes and types: the content itself is passed on as it was read. What earlier versions did not
record may be missing, and is never null.
"""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from edgeprune.base.files import first_fault
from edgeprune.base.record import Record as _Read
from edgeprune.compress.quantize.plan import Plan
from edgeprune.measure.bench.record import Count
from edgeprune.measure.evaluate.result import Values
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import Requirements

# Places along an axis that is drawn.
Place = Annotated[int, Field(ge=0, le=10**6)]
MISSING: Any = Field(default=None)
_HOW = "sensitivity"


class _Stage(_Read):
    """What any stage recorded."""

    name: str
    seconds: float
    peak_megabytes: float


class _Measured(Measured, _Stage):
    """What the stage measure recorded."""


class _Loaded(_Stage):
    parameters: Count
    heads: list[Count] = MISSING
    channels: list[Count] = MISSING


class _Exported(_Stage):
    bytes: Count


class _Check(_Read):
    """The losses at one step of training."""

    step: Place
    learning_rate: float
    loss: float
    held_out: float


class _Update(_Read):
    """One update of a budget."""

    step: Place
    target: float
    sparsity: float
    budget: float
    beta: float
    gate: float
    norm: float | None
    trend: float
    cv: float
    kept: dict[str, Count]


class _Pool(_Read):
    """Units that were pruned while training."""

    pattern: str
    units: Count
    removed: Count
    trajectory: Annotated[list[_Update], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_layers(self) -> Self:
        if any(each.kept.keys() != self.trajectory[0].kept.keys() for each in self.trajectory):
            raise ValueError("updates of different layers")
        return self


class _PrunedLayer(_Read):
    removed: Count
    weights: PositiveInt
    error: float


class _Pruned(_Stage):
    method: str = MISSING
    pools: list[_Pool] = MISSING
    checks: list[_Check] = MISSING
    best_step: Place | None = None
    layers: dict[str, _PrunedLayer] = MISSING
    pattern: str = MISSING
    removed: Count = MISSING
    weights: Count = MISSING

    @model_validator(mode="after")
    def _totals(self) -> Self:
        if self.layers is not None and None in (self.pattern, self.removed, self.weights):
            raise ValueError("layers without their pattern and sums")
        return self


class _Cut(_Stage):
    layers: list[Place] = MISSING
    heads: list[Count]
    channels: list[Count]
    parameters: Count
    layer_scores: list[float] | None = None


class _Recovered(_Stage):
    checks: Annotated[list[_Check], Field(min_length=1)]
    best_step: Place
    held_out: float


class _Planned(_Read):
    """One tensor of a plan, as `Plan.from_json` reads it."""

    model_config = ConfigDict(extra="allow")

    name: str
    role: str
    shape: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    format: str
    tied_to: str | None = None
    bits: PositiveInt = MISSING
    group: PositiveInt | None = None
    sparsity: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.bits is None:  # earlier plans had one number for all
            return self
        try:
            [entry] = Plan.from_json({"entries": [self.model_dump()]})
            entry.bytes  # noqa: B018  (by the format's own rule)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no tensor of a plan ({error})") from None
        return self


class _Plan(_Read):
    entries: list[_Planned]


class _Error(_Read):
    relative: float
    output: float = MISSING


class _Quantized(_Stage):
    plan: _Plan
    errors: dict[str, _Error] = MISSING
    costs: dict[str, Values] | None = None
    massive_activations: dict[str, float] | None = None


class _Pass(_Read):
    name: str
    changed: Count
    nodes: Count
    drift: float
    tolerance: float
    kept: bool
    reason: str


class _Rewritten(_Stage):
    passes: list[_Pass]


STAGES: dict[str, type[_Stage]] = {
    "load": _Loaded,
    "original": _Exported,
    "prune": _Pruned,
    "cut": _Cut,
    "sparsify": _Pruned,
    "recover": _Recovered,
    "quantize": _Quantized,
    "export": _Exported,
    "rewrite": _Rewritten,
    "measure": _Measured,
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
