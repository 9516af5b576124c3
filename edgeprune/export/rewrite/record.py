"""The record of a rewriting."""

from edgeprune.base.record import Record
from edgeprune.compress.records import Count


class Pass(Record):
    """What one pass changed, and how far the outputs moved."""

    name: str
    changed: Count
    nodes: Count
    """Nodes in the graph afterwards."""
    drift: float
    tolerance: float
    kept: bool
    reason: str
    rounding: float | None = None
    """How far the rounding that was planned moved the outputs, as a whole."""


class Rewritten(Record):
    """The passes, in order."""

    passes: list[Pass]
