"""The record of an export."""

from edgeprune.base.record import Record
from edgeprune.compress.records import Count


class Exported(Record):
    """The size of a graph in float32."""

    bytes: Count
    written: bool = True
    """Whether it was written as a file, which that of a streamed model is not."""
