"""The record of a rewriting."""

from edgeprune.base.record import Record
from edgeprune.compress.records import Count


class Pass(Record):
    """The nodes that one pass changed, and the drift of the outputs."""

    name: str
    changed: Count
    nodes: Count
    """Nodes in the graph afterwards."""
    drift: float
    tolerance: float
    kept: bool
    reason: str
    rounding: float | None = None
    """The drift of the outputs by the rounding that was planned, as a whole."""


class Rewritten(Record):
    """The passes, in order."""

    passes: list[Pass]
