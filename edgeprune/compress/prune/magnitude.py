"""Magnitude: the smallest weights of a linear go, whatever its inputs are. The oldest baseline."""

from torch import Tensor

from edgeprune.compress.maths.obs import Pruned
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.ranking import cheapest


def magnitude(weight: Tensor, gram: Tensor, pattern: str, count: int) -> Pruned:
    """Remove the `count` units of the smallest mean square.

    Args:
        weight: [out, in].
        gram: [in, in], not read: it is here because every one-shot method takes it.
        pattern: what a unit is, as patterns.py reads it.
        count: units that go, exactly.
    """
    units = weight_pattern(pattern, tuple(weight.shape))
    scores = units.unit_scores(weight.double().square())
    gone = units.element_mask(cheapest(units, scores, count))
    return Pruned.of(weight, weight, gone)
