"""Counts of a model's weights, and of the units that can be removed, by its anatomy."""

from edgeprune.model.anatomy import Anatomy


def channels(anatomy: Anatomy) -> list[int]:
    """Channels of every feed-forward, in the order of the data."""
    return [part.channels for part in anatomy.feed_forwards]


def heads(anatomy: Anatomy) -> int:
    """Query heads of all layers."""
    return sum(part.num_heads for part in anatomy.attentions)


def block_weights(anatomy: Anatomy) -> int:
    """Weights of the linears inside the blocks."""
    return sum(rows * columns for rows, columns in map(anatomy.shape, anatomy.block_linears()))


def parameters(anatomy: Anatomy) -> int:
    """Weights of the linears inside the blocks and of the embeddings."""
    tables = [anatomy.shape(name) for name in anatomy.embeddings.values()]
    return block_weights(anatomy) + sum(rows * width for rows, width in tables)
