"""The record of shaping: the shape that is left, and the training on the way."""

from edgeprune.base.record import Record
from edgeprune.compress.cut.record import Cut
from edgeprune.compress.records import MISSING, Check, Count


class Round(Record):
    """The shape that a cut left."""

    heads: list[Count]
    channels: list[Count]


class Shaped(Cut):
    """The shape that is left, those before it, and the losses of the trainings, whose steps count
    on from round to round."""

    rounds: list[Round] = MISSING
    checks: list[Check] = MISSING
