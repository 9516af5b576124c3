"""The record of a pruning, while training or in one shot."""

from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from edgeprune.base.record import Record
from edgeprune.compress.records import MISSING, Check, Count, Place


class Update(Record):
    """One update of a budget."""

    update: Place = MISSING
    step: Place
    target: float
    deficit: float = MISSING
    norm: float | None
    trend: float
    deviation: float | None = None
    """Root mean square of the norms' deviations from their trend, as a share of it."""
    beta: float
    budget: float
    sparsity: float
    dropped: Count = MISSING
    grown: Count = MISSING
    churn: float = MISSING
    kept: dict[str, Count]
    """Units that are left, by layer."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_first_release(cls, values: Any) -> Any:
        """The coefficient of variation is its word for the deviation."""
        if isinstance(values, dict) and "cv" in values:
            known = {key: value for key, value in values.items() if key in cls.model_fields}
            return {"deviation": values["cv"], **known}
        return values


class Pool(Record):
    """Units that were pruned while training."""

    pattern: str
    units: Count
    removed: Count
    trajectory: Annotated[list[Update], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_layers(self) -> Self:
        if any(each.kept.keys() != self.trajectory[0].kept.keys() for each in self.trajectory):
            raise ValueError("updates of different layers")
        return self


class PrunedLayer(Record):
    """One linear after pruning: weights removed of all, and ||(W' - W) X|| / ||W X||."""

    removed: Count
    weights: PositiveInt
    error: float


class Pruned(Record):
    """Pools and checks of a pruning while training; layers and their sums of one in one shot."""

    method: str = MISSING
    pools: list[Pool] = MISSING
    pattern: str = MISSING
    units: Count = MISSING
    removed: Count = MISSING
    weights: Count = MISSING
    layers: dict[str, PrunedLayer] = MISSING
    search: dict[str, Any] = MISSING
    checks: list[Check] = MISSING
    best_step: Place | None = None
    held_out: float = MISSING

    @model_validator(mode="after")
    def _totals(self) -> Self:
        if self.layers is not None and None in (self.pattern, self.removed, self.weights):
            raise ValueError("layers without their pattern and sums")
        return self
