"""The record of a quantization: the plan, and how far values and outputs moved."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from edgeprune.base.record import Record
from edgeprune.compress.quantize.plan import Plan
from edgeprune.compress.records import MISSING, Values


class PlannedTensor(Record):
    """One tensor of a plan, as `Plan.from_json` reads it."""

    name: str
    role: str
    shape: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    format: str
    tied_to: str | None = None
    bits: PositiveInt = MISSING
    group: PositiveInt | None = None
    symmetric: bool = MISSING
    input_scale: float | None = None
    input_zero_point: int | None = None
    unpacked: bool = MISSING
    sparsity: Annotated[float, Field(ge=0, le=1)] | None = None
    predicted_us: float | None = None
    dense_us: float | None = None

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.bits is None:  # earlier plans had one number for all
            return self
        try:
            [entry] = Plan.from_json({"entries": [self.to_json()]})
            entry.bytes  # noqa: B018  (by the format's own rule)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no tensor of a plan ({error})") from None
        return self


class PlannedTensors(Record):
    """A plan."""

    entries: list[PlannedTensor]
    bits: PositiveInt = MISSING
    """Of all of them, in plans of earlier versions."""


class Quantized(Record):
    """The plan, and by a tensor's or linear's name what became of it."""

    plan: PlannedTensors
    errors: dict[str, dict[str, float]] = MISSING
    smoothed: list[str] = MISSING
    massive_activations: dict[str, float] | None = None
    activation_drift: float | None = None
    costs: dict[str, Values] | None = None

    @model_validator(mode="after")
    def _relative(self) -> Self:
        for name, error in (self.errors or {}).items():
            if "relative" not in error:
                raise ValueError(f"the error of {name} without its relative one")
        return self
