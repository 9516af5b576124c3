"""SparseGPT (Frantar & Alistarh, 2023): optimal brain surgeon, column after column.

The mask of a block of columns is chosen by what it costs to lose each weight when only the columns
after it can make up for it; then each column's lost weights are corrected for by those columns.
Blocks of weights are chosen by their joint cost (see obs.joint_costs): our own extension.
"""

import torch
from torch import Tensor

from edgeprune.base.budget import apportion
from edgeprune.compress.maths.obs import (
    Pruned,
    column_blocks,
    damped,
    inverse_factor,
    joint_costs,
    settle_columns,
)
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.ranking import cheapest
from edgeprune.compress.prune.settings import parse_n_m


def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    pattern: str,
    count: int,
    block_size: int = 128,
    damping: float = 0.01,
) -> Pruned:
    """Remove `count` units, as many from each block of columns, and correct what is kept.

    Args:
        weight: [out, in].
        gram: inputs' Gram matrix X X^T [in, in].
        pattern: what a unit is, as patterns.py reads it; n:m groups are chosen one by one, each
            from weights that are already corrected for the columns before.
        count: units that go, exactly.
        block_size: columns that are chosen together (a multiple of the pattern's where it has one).
        damping: share of the mean diagonal that is added to the Gram matrix's.

    Raises:
        UserError: the damped Gram matrix is not positive definite.
    """
    outputs, inputs = weight.shape
    work = weight.to(torch.float64, copy=True)
    gone = torch.zeros_like(work, dtype=torch.bool)
    upper = inverse_factor(damped(gram, damping))
    whole = weight_pattern(pattern, (outputs, inputs))
    n_m = parse_n_m(pattern)
    blocks = column_blocks(inputs, block_size, whole.span)
    chosen = column_blocks(inputs, n_m[1], n_m[1]) if n_m else blocks
    parts = [weight_pattern(pattern, (outputs, stop - start)) for start, stop in chosen]
    rooms = [part.capacity for part in parts]
    shares = apportion(count, [float(part.units) for part in parts], upper=rooms)
    at = {
        start: (part, share) for (start, _), part, share in zip(chosen, parts, shares, strict=True)
    }

    def settle(column: int) -> Tensor:
        if column in at:
            part, share = at[column]
            here = slice(column, column + part.shape[1])
            costs = joint_costs(work[:, here], upper[here, here], part.inputs)
            units = cheapest(part, part.unit_scores(costs), share)
            gone[:, here] = part.element_mask(units)
        return work[:, column].masked_fill(gone[:, column], 0)

    settle_columns(work, upper, blocks, settle)
    return Pruned.of(weight, work, gone)
