"""What a report reads of records and result files, checked once where they are read.

Only shapes and types: the content itself is passed on as it was read. What earlier versions did not
record may be missing, and is never null.
"""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    ValidationError,
    model_validator,
)

from edgeprune.base.files import first_fault
from edgeprune.base.record import Record as _Read
from edgeprune.compress.cut.record import Cut
from edgeprune.compress.cut.vocabulary_record import Trimmed
from edgeprune.compress.load.record import Loaded
from edgeprune.compress.prune.record import Pruned
from edgeprune.compress.quantize.record import Quantized
from edgeprune.compress.records import MISSING
from edgeprune.compress.recover.record import Recovered
from edgeprune.export.record import Exported
from edgeprune.export.rewrite.record import Rewritten
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import Requirements

_HOW = "sensitivity"


class _Stage(_Read):
    """What any stage recorded."""

    name: str
    seconds: float
    peak_megabytes: float


class _Measured(Measured, _Stage):
    """What the stage measure recorded."""


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
