"""The record of a recovery by distillation."""

from typing import Annotated

from pydantic import Field

from edgeprune.base.record import Record
from edgeprune.compress.records import Check, Place


class Recovered(Record):
    """The trajectory, and the step whose weights were kept with their held-out loss."""

    checks: Annotated[list[Check], Field(min_length=1)]
    best_step: Place
    held_out: float
