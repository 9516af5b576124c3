"""Wanda (Sun et al., 2023): the smallest of weight times input norm go, output by output.

Its square is optimal brain damage's cost for the Hessian X X^T. Weights that stay are untouched.
"""

from torch import Tensor

from edgeprune.compress.maths.obs import Pruned
from edgeprune.compress.prune.patterns import Pattern, weight_pattern
from edgeprune.compress.prune.ranking import cheapest_by_row


def wanda(weight: Tensor, gram: Tensor, pattern: str, count: int) -> Pruned:
    """Remove `count` units, as many from each output as from any other, but for one.

    Args:
        weight: [out, in].
        gram: inputs' Gram matrix X X^T [in, in], of which the diagonal is read.
        pattern: what a unit is, as patterns.py reads it; a block's outputs are compared together.
        count: units that go, exactly.
    """
    units = weight_pattern(pattern, tuple(weight.shape))
    gone = cheapest_by_row(units, wanda_costs(units, weight, gram.diagonal()), count)
    return Pruned.of(weight, weight, units.element_mask(gone))


def wanda_costs(units: Pattern, weight: Tensor, energy: Tensor) -> Tensor:
    """Mean of (|W_ij| ||X_j||)^2 over each unit's weights [units].

    weight: [out, in]; energy: squared norm of each input over the text [in].
    """
    return units.unit_scores(weight.double().square() * energy.double())
