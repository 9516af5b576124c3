"""The record of a cut: the layers, heads and channels that are left."""

from typing import Any

from edgeprune.base.record import Record
from edgeprune.compress.records import MISSING, Count, Place


class Cut(Record):
    """The shapes that are left."""

    layers: list[Place] = MISSING
    """The positions that the layers had in the original."""
    layer_scores: list[float] | None = None
    layer_search: dict[str, Any] = MISSING
    experts: list[list[Count]] = MISSING
    """The positions of the experts that are left, by layer."""
    heads: list[Count]
    channels: list[Count]
    parameters: Count
