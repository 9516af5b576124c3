"""The parts of records and result files that a report reads, checked once where they are read.

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
from edgeprune.compress.prune.record import Pruned
from edgeprune.compress.quantize.record import Quantized
from edgeprune.compress.records import MISSING
from edgeprune.export.stages import MAKING
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import Requirements

_HOW = "sensitivity"


class _Stage(_Read):
    """The fields that every stage records."""

    name: str
    seconds: float
    peak_megabytes: float


RECORDS: dict[str, type[_Read]] = {
    **{stage.name: stage.record for stage in MAKING},
    "measure": Measured,
}
"""The class of each stage's record, by its name."""


def _by_name(record: Any) -> tuple[str, _Read]:
    """A stage's name, and its record by what that stage records; others' have what all record."""
    try:
        name = _Stage.model_validate(record).name
        return name, RECORDS.get(name, _Stage).model_validate(record)
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


class _Built(_Read):
    at: str
    command: str


class Content(_Read):
    """A report.json or a manifest."""

    task: str = MISSING
    built: _Built = MISSING
    source: _Source = MISSING
    text: _Text = MISSING
    recipe: _Recipe = MISSING
    stages: list[Annotated[Any, AfterValidator(_by_name)]] = MISSING

    @model_validator(mode="after")
    def _asked(self) -> Self:
        """A build has a task, and its recipe the settings of the stages that ran by them."""
        if self.stages and self.task is None:
            raise ValueError("a build without its task")
        for name, did in self.stages or []:
            asked = getattr(self.recipe, name, None)
            if isinstance(did, Pruned) and did.pools and asked is None:
                raise ValueError(f"a recipe without the stage {name}, which ran")
            if isinstance(did, Quantized) and did.costs and not (asked or {}).get(_HOW):
                raise ValueError(f"costs without the recipe's quantize.{_HOW}")
            drop = self.recipe and self.recipe.require and self.recipe.require.drop
            paired = isinstance(did, Measured) and any(each.difference for each in did.quality)
            if isinstance(did, Measured) and drop is not None and not paired:
                raise ValueError("require.drop without a quality that the original has too")
        return self
