"""The time of a whole model from the times of its blocks."""

from edgeprune.search.shape import Shape
from edgeprune.targets.block_times import BlockTimes


def predict(table: BlockTimes, shape: Shape) -> float:
    """Seconds of one call of a model of this shape, as the table's machine was when it was
    measured; instructions, where the table counts those."""
    total = fixed(table) + sum(
        layer(table, heads, channels)
        for heads, channels in zip(shape.heads, shape.channels, strict=True)
    )
    return total * (1e-6 if table.unit == "microseconds" else 1.0)


def fixed(table: BlockTimes) -> float:
    """The rest that no layer holds, in the table's unit."""
    return table.factors.rest * table.rest


def layer(table: BlockTimes, heads: int, channels: int) -> float:
    """One layer, in the table's unit."""
    constant = table.factors.layer * table.layer
    return constant + table.attention(heads) + table.feed_forward(channels)
