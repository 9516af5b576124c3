"""GPTQ (Frantar et al., 2022): round column after column, the later ones making up for each.

What rounding adds to a linear's outputs on the calibration text is least where the columns that
are still free move against it, by the same solver as SparseGPT's. Weights that a mask removed stay
zero, and their neighbours make up for one another around them. A group's range is taken when its
first column is reached, from weights that are by then corrected; in the order of the inputs'
energy ("act-order"), where a group's columns are far apart, and where the scales of a row are
multiples of one number, before the first.
"""

import torch
from torch import Tensor

from edgeprune.compress.maths.obs import column_blocks, damped, inverse_factor, settle_columns
from edgeprune.compress.quantize.grid import Grid, check_finite, fit_grid
from edgeprune.compress.quantize.grouped import Grouped, as_groups, by_group, settled
from edgeprune.compress.quantize.int8 import Rounded
from edgeprune.compress.quantize.scheme import Scheme


def gptq(
    weight: Tensor,
    gram: Tensor,
    scheme: Scheme,
    clip: str = "absmax",
    kept: Tensor | None = None,
    damping: float = 0.01,
    act_order: bool = False,
    block_size: int = 128,
) -> Rounded | Grouped:
    """Round a weight so that its outputs on the calibration text change little.

    Args:
        weight: float32, (rows, columns).
        gram: the inputs' Gram matrix X X^T, (columns, columns).
        scheme: the integers that weights become.
        clip: how a range is chosen, as `fit_grid` says.
        kept: bool, (rows, columns): False stays exactly zero. None keeps all.
        damping: share of the mean diagonal that is added to the Gram matrix's.
        act_order: settle the inputs of most energy first, while all others can make up for them.
        block_size: columns that hear of one another's rounding at once; no matter to the result.

    Returns:
        The codes, with their error to `weight` as it was given.

    Raises:
        ValueError: a weight is not finite.
        UserError: the damped Gram matrix is not positive definite.
    """
    check_finite(weight)
    columns = weight.shape[1]
    group = scheme.group or columns
    energy = gram.diagonal()
    order = energy.argsort(descending=True, stable=True) if act_order else torch.arange(columns)
    upper = inverse_factor(damped(gram, damping)[order][:, order])
    work = weight.double()[:, order]
    gone = torch.zeros_like(work, dtype=torch.bool) if kept is None else ~kept.bool()[:, order]
    codes = torch.empty_like(weight)
    fixed = act_order or scheme.group is None or scheme.multiples is not None
    grids = grids_before(weight, scheme, clip) if fixed else []

    def wanted(columns: slice) -> Tensor:
        return work[:, columns].masked_fill(gone[:, columns], 0).float()

    def settle(column: int) -> Tensor:
        place = int(order[column])
        if place // group == len(grids):
            grids.append(fit_grid(wanted(slice(column, column + group)), scheme, clip))
        grid = grids[place // group]
        chosen = grid.codes(wanted(slice(column, column + 1)))
        codes[:, place] = chosen[:, 0]
        return grid.values(chosen)[:, 0].double()

    blocks = column_blocks(columns, block_size, 1 if fixed else group)
    settle_columns(work, upper, blocks, settle)
    if scheme.group is None:
        return Rounded.of(weight, codes, grids[0])
    return Grouped.of(weight, codes, grids, scheme.group)


def grids_before(weight: Tensor, scheme: Scheme, clip: str) -> list[Grid]:
    """The grid (rows,) of each group of columns, by the weight (rows, columns) as it is given."""
    if scheme.group is None:
        return [fit_grid(weight, scheme, clip)]
    groups = as_groups(weight, scheme.group)
    return by_group(settled(weight, groups, fit_grid(groups, scheme, clip), clip), len(weight))
