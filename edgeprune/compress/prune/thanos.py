"""Thanos (Ilin & Richtarik, 2025): Wanda's choice, corrected for jointly in blocks of columns.

Before every block of columns the mask is chosen again, over all columns that are left, by Wanda's
metric on the weights as they are by then; what falls into the block leaves at once, and all other
weights of its row make up for it. For whole columns there is one block, and rows of large output
energy may be left dense. The trailing inverses come from one factor (obs.inverse_factor) where the
paper inverts each.
"""

import math

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.maths.obs import (
    Pruned,
    column_blocks,
    damped,
    inverse_factor,
    remove_jointly,
)
from edgeprune.compress.maths.ranking import highest
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.ranking import cheapest
from edgeprune.compress.prune.settings import COLUMNS
from edgeprune.compress.prune.wanda import wanda_costs


def thanos(
    weight: Tensor,
    gram: Tensor,
    pattern: str,
    count: int,
    block_size: int = 128,
    damping: float = 0.01,
    outlier_rows: float = 0.0,
) -> Pruned:
    """Remove `count` units and correct what is kept.

    Args:
        weight: [out, in].
        gram: inputs' Gram matrix X X^T [in, in].
        pattern: what a unit is, as patterns.py reads it.
        count: units that go, exactly; with outlier rows, columns grow in number so that as many
            weights leave, and n:m groups are fewer.
        block_size: columns that leave together (a multiple of the pattern's where it has one).
        damping: share of the mean diagonal that is added to the Gram matrix's.
        outlier_rows: share of the rows, those of the largest ||W_i X||, that keep every weight.

    Raises:
        UserError: the damped Gram matrix is not positive definite, or more columns
            would go than there are.
    """
    rows = _rest(weight, gram, outlier_rows)
    work = weight.double()[rows]
    count = _count(pattern, work, count, len(weight))
    gone = torch.zeros_like(work, dtype=torch.bool)
    upper = inverse_factor(damped(gram, damping))
    energy = gram.diagonal()
    outputs, inputs = work.shape
    whole = weight_pattern(pattern, (outputs, inputs))
    width = inputs if pattern == COLUMNS else block_size
    for start, stop in column_blocks(inputs, width, whole.span):
        left = weight_pattern(pattern, (outputs, inputs - start))
        costs = wanda_costs(left, work[:, start:], energy[start:])
        here = left.element_mask(cheapest(left, costs, count))[:, : stop - start].contiguous()
        block = weight_pattern(pattern, (outputs, stop - start))
        count -= int(block.unit_scores(here.double()).sum().round())
        remove_jointly(work[:, start:], here, upper[start:, start:], left.outputs)
        gone[:, start:stop] = here
    values = weight.to(torch.float64, copy=True)
    removed = torch.zeros_like(weight, dtype=torch.bool)
    values[rows], removed[rows] = work, gone
    return Pruned.of(weight, values, removed)


def _rest(weight: Tensor, gram: Tensor, outlier_rows: float) -> Tensor:
    """Mask [out] of the rows that are pruned."""
    wide = weight.double()
    energy = ((wide @ gram.double()) * wide).sum(1)
    return ~highest(energy, math.ceil(outlier_rows * len(weight) - 1e-9))


def _count(pattern: str, work: Tensor, count: int, outputs: int) -> int:
    """Units to take from the rows that are pruned, `work` [rows, in], of `outputs` in all."""
    rows, inputs = work.shape
    if rows == outputs:
        return count
    if pattern != COLUMNS:
        return min(count, weight_pattern(pattern, (rows, inputs)).capacity)
    columns = math.ceil(count * outputs / max(1, rows))
    if columns > inputs:
        raise UserError(
            f"{count} of {inputs} columns cannot leave while {outputs - rows} of {outputs} rows "
            "stay whole: lower prune.outlier_rows or prune.sparsity."
        )
    return columns
