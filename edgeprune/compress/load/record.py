"""The record of the load stage."""

from edgeprune.base.record import Record
from edgeprune.compress.records import MISSING, Count


class Loaded(Record):
    """The model that a build starts from."""

    parameters: Count
    heads: list[Count] = MISSING
    """Of every layer, as are the channels."""
    channels: list[Count] = MISSING
    streamed: bool = False
    """Its weights stayed on disk."""
