"""Types of fields that the records of several stages share."""

from typing import Annotated, Any

from pydantic import Field

from edgeprune.base.record import Record

Count = Annotated[int, Field(ge=0, le=10**15)]
Place = Annotated[int, Field(ge=0, le=10**6)]
"""A place along an axis that is drawn."""
Values = Annotated[dict[str, float], Field(min_length=1)]
MISSING: Any = Field(default=None)
"""The default of a field that earlier versions did not write; where written it is not null."""


class Check(Record):
    """The losses at one step of training."""

    step: Place
    learning_rate: float
    loss: float
    held_out: float
