"""Correct a table of times by models that were built and measured whole.

A factor each for the rest, for a layer's constant, for heads and for channels; least squares of
the relative errors, each factor drawn to 1 as strongly as measurements of 2 % and factors of 5 %
ask for. One built model so moves all a little, and many tell them apart.
"""

from collections.abc import Sequence

import numpy as np

from edgeprune.search.shape import Shape
from edgeprune.targets.block_times import BlockTimes, Built, Factors, between

_MEASURED, _EXPECTED = 0.02, 0.05


def corrected(table: BlockTimes, models: Sequence[tuple[Shape, float]]) -> BlockTimes:
    """The table with more built models, and its factors fitted to all of them.

    Args:
        models: shapes, and the seconds of a call of each; on a machine whose speed changes, scaled
            by `table.whole` over the whole model's time beside it.
    """
    more = [
        Built(heads=shape.heads, channels=shape.channels, us=seconds * 1e6)
        for shape, seconds in models
    ]
    built = (*table.built, *more)
    if not built:
        return table
    parts = np.array([_parts(table, each) for each in built])
    rows = parts / np.array([[each.us] for each in built]) / _MEASURED
    kinds = tuple(Factors.model_fields)
    drawn = np.eye(len(kinds)) / _EXPECTED
    left = np.concatenate([1 / _MEASURED - rows.sum(axis=1), np.zeros(len(kinds))])
    change = np.linalg.lstsq(np.vstack([rows, drawn]), left, rcond=None)[0]
    values = np.maximum(0.0, 1 + change)
    factors = Factors(**dict(zip(kinds, map(float, values), strict=True)))
    return table.model_copy(update={"built": built, "factors": factors})


def _parts(table: BlockTimes, model: Built) -> tuple[float, float, float, float]:
    """A model's time by kind of block, in the factors' order, before any correction."""
    return (
        table.rest,
        table.layer * len(model.heads),
        sum(between(table.heads, count) for count in model.heads),
        sum(between(table.channels, count) for count in model.channels),
    )
