"""Optimal brain surgeon for one linear: what SparseGPT, GPTQ, Thanos and compensated cuts share.

A linear's outputs W X (W [out, in], X [in, tokens]) change least, in squared error, when what
leaves row w is made up for by the rest of the row under the Hessian H = X X^T (its scale is no
matter). Hassibi & Stork (1993): removing the entries S of a row at once adds

    -w_S (inv(H)_SS)^-1 inv(H)_S,:       at the cost w_S (inv(H)_SS)^-1 w_S^T

which is least squares on what is kept. Every function here takes H damped, in float64: the damping
bounds its condition number by in / damping, some 1e5, and float32 would keep two digits of such an
inverse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.base.errors import UserError

_CHUNK = 1 << 18
"""Float64 entries of the small systems that are solved at a time: 2 MB, which stay in a core's
cache; with 128 MB the same took three to four times as long."""


@dataclass(frozen=True)
class Pruned:
    """A pruned weight [out, in], in the dtype it had, and a mask [out, in] of what is kept."""

    weight: Tensor
    kept: Tensor

    @classmethod
    def of(cls, weight: Tensor, values: Tensor, gone: Tensor) -> "Pruned":
        """`values` [out, in] where they are not `gone`, like `weight`."""
        return cls(values.to(weight.dtype).masked_fill(gone, 0), ~gone)


def damped(gram: Tensor, damping: float) -> Tensor:
    """The Gram matrix [in, in] in float64 with damping * mean(diagonal) added to its diagonal.

    That keeps inputs that the text never excites apart from all others, without a treatment of
    their own: nothing is made up for through them, and what they keep stays as it was.
    """
    hessian = gram.to(torch.float64, copy=True)
    level = float(hessian.diagonal().mean())
    hessian.diagonal().add_(damping * level if level > 0 else 1.0)
    return hessian


def inverse_factor(hessian: Tensor) -> Tensor:
    """The upper triangular U with inv(H) = U^T U.

    For every i, inv(H[i:, i:]) = U[i:, i:]^T U[i:, i:]: the factor of what is left when the first
    columns are done is a corner of this one. Taken from the Cholesky factor of H with its order
    reversed, H = R R^T with R upper triangular: U = inv(R).

    Raises:
        UserError: H is not positive definite.
    """
    factor = _cholesky(hessian.flip(0, 1))
    identity = torch.eye(len(hessian), dtype=hessian.dtype)
    return torch.linalg.solve_triangular(factor.flip(0, 1), identity, upper=True)


def _cholesky(hessian: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if int(failed):
        raise UserError(
            "What a linear reads on the calibration text cannot be inverted: "
            "raise damping, or give more samples."
        )
    return factor


def joint_costs(work: Tensor, upper: Tensor, width: int) -> Tensor:
    """Entries [out, columns] whose sums over `width` columns are the costs of removing those.

    w_S (inv(H)_SS)^-1 w_S^T = |w_S U_SS^-1|^2, with columns before S fixed. For width 1 this is
    SparseGPT's w^2 / U_ii^2.

    work: weights [out, columns]; upper: their corner of the inverse factor [columns, columns].
    """
    group = torch.arange(len(upper)) // width
    diagonal = upper.where(group[:, None] == group, 0)
    return torch.linalg.solve_triangular(diagonal, work, upper=True, left=False).square()


def remove_jointly(work: Tensor, gone: Tensor, upper: Tensor, together: int = 1) -> None:
    """Remove entries of the first columns at once; everything else of each row makes up for them.

    work: weights [out, columns], changed in place. gone: [out, first] what leaves, which
    `together` consecutive rows share. upper: the inverse factor's corner [columns, columns].
    """
    first = gone.shape[1]
    # inv(H)[:first]: below its first rows, the first columns of U are zero.
    inverse = upper[:first, :first].T @ upper[:first]
    square = inverse[:, :first]
    rows, masks = len(work), gone[::together]
    padded = work.new_zeros(len(masks) * together, first)
    padded[:rows] = work[:, :first]
    weights = padded.view(len(masks), together, first)
    multipliers = torch.zeros_like(weights)
    counts = masks.sum(1)
    order = counts.argsort()  # systems of like size are solved together
    order = order[counts[order] > 0]
    while len(order):
        largest = int(counts[order[-1]])
        many = max(1, _CHUNK // largest**2)
        some, order = order[-many:], order[:-many]
        index = masks[some].byte().argsort(dim=1, descending=True, stable=True)[:, :largest]
        real = masks[some].gather(1, index)
        both = real[:, :, None] & real[:, None, :]
        identity = torch.eye(largest, dtype=work.dtype)
        system = torch.where(both, square[index[:, :, None], index[:, None, :]], identity)
        index = index[:, None].expand(-1, together, -1)
        right = weights[some].gather(2, index) * real[:, None]
        solved = torch.cholesky_solve(right.mT, torch.linalg.cholesky(system)).mT
        multipliers[some] = torch.zeros_like(weights[some]).scatter(2, index, solved)
    work -= multipliers.view(-1, first)[:rows] @ inverse
    work[:, :first].masked_fill_(gone, 0)


def remove_in_blocks(
    weight: Tensor, gone: Tensor, hessian: Tensor, block_size: int, span: int = 1, together: int = 1
) -> Tensor:
    """`weight` [out, in] in float64 without the entries `gone` [out, in], the rest corrected.

    Each block of columns leaves jointly, and everything after its start makes up for it: least
    squares where one block holds all columns. span, together: the pattern's inputs that must stay
    in one block, and the consecutive rows that share a mask.
    """
    work = weight.to(torch.float64, copy=True)
    upper = inverse_factor(hessian)
    for start, stop in column_blocks(work.shape[1], block_size, span):
        here = gone[:, start:stop].contiguous()
        remove_jointly(work[:, start:], here, upper[start:, start:], together)
    return work


def settle_columns(
    work: Tensor,
    upper: Tensor,
    blocks: Sequence[tuple[int, int]],
    settle: Callable[[int], Tensor],
) -> None:
    """Give column after column its last values; the columns after it make up for the change.

    Moving column i by d moves each later column j by d U_ij / U_ii, which is least squares with
    the columns before fixed. Columns beyond a block hear of it when the block is done.

    work: weights [out, in], changed in place. upper: the inverse factor [in, in]. blocks: (start,
    stop) of consecutive columns. settle: a column's index -> its last values [out], looked up in
    `work` as it is by then (up to the end of the block).
    """
    for start, stop in blocks:
        errors = work.new_zeros(len(work), stop - start)
        for column in range(start, stop):
            values = settle(column)
            error = (work[:, column] - values) / upper[column, column]
            work[:, column:stop] -= torch.outer(error, upper[column, column:stop])
            work[:, column] = values
            errors[:, column - start] = error
        work[:, stop:] -= errors @ upper[start:stop, stop:]


def least_squares(weight: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    """The weights [out, kept] on the `kept` inputs [in] whose outputs come nearest W X.

    W H[:, K] (H_KK)^-1; the same as removing all the others at once.
    """
    index = kept.nonzero().flatten()
    factor = _cholesky(hessian[index][:, index])
    return torch.cholesky_solve((weight.double() @ hessian[:, index]).T, factor).T


def column_blocks(columns: int, block_size: int, span: int) -> list[tuple[int, int]]:
    """Consecutive (start, stop) of at most `block_size` columns, at least one whole `span`."""
    width = max(1, block_size // span) * span
    return [(start, min(start + width, columns)) for start in range(0, columns, width)]


def relative_error(before: Tensor, after: Tensor, gram: Tensor) -> float:
    """||(after - before) X|| / ||before X||, Frobenius norms, from the Gram matrix X X^T."""
    change = after - before
    energy = float(((before @ gram) * before).sum())
    lost = max(0.0, float(((change @ gram) * change).sum()))
    return (lost / energy) ** 0.5 if energy > 0 else 0.0
