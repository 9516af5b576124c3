"""One training over several processes: each runs the models on its share of every batch.

    own = share(batch)                 the texts that this process runs
    output = whole(run(own), batch)    the outputs of all of them, in the batch's order
    loss(output, batch).backward()     reaches the weights by the own texts alone
    add_up(leaves, probed)             the batch's gradients, the same in every process

Every process has the whole batch's outputs, so that a loss may compare its texts with one another,
or divide by the tokens or labels of all of them, as in one process. Its gradient is the sum over
processes of what flows back through their own shares. From the same gradients all go on alike: the
same norms, the same masks, the same steps. In one process everything here is the identity.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from edgeprune.base import ranks
from edgeprune.base.errors import UserError
from edgeprune.text.batches import Batch

Outputs = TypeVar("Outputs")


def share(batch: Batch) -> Batch:
    """The texts of a batch that this process runs: as many as in every other, so that the last ones
    may run some again."""
    if ranks.count() == 1:
        return batch
    each = -(-len(batch.input_ids) // ranks.count())
    rows = np.arange(ranks.number() * each, (ranks.number() + 1) * each) % len(batch.input_ids)
    return Batch(
        batch.input_ids[rows],
        batch.attention_mask[rows],
        None if batch.labels is None else batch.labels[rows],
        None if batch.token_type_ids is None else batch.token_type_ids[rows],
    )


def whole(found: Outputs, batch: Batch) -> Outputs:
    """All that the processes found for their shares of a batch, in the batch's order.

    Args:
        found: tensors [texts of the share, ...], or outputs, tuples or lists of them; anything else
            stays as it is.
    """
    return found if ranks.count() == 1 else _whole(found, len(batch.input_ids))


def _whole(found: Any, texts: int) -> Any:
    if isinstance(found, Tensor):
        return _gathered(found, texts)
    if isinstance(found, Mapping):
        return type(found)(**{name: _whole(value, texts) for name, value in found.items()})
    if isinstance(found, tuple | list):
        return type(found)(_whole(value, texts) for value in found)
    return found


def _gathered(found: Tensor, texts: int) -> Tensor:
    """The parts of all processes one after another, this one's with its gradient."""
    parts = [torch.empty(found.shape, dtype=found.dtype) for _ in range(ranks.count())]
    with ranks.in_step():
        distributed.all_gather(parts, found.detach().contiguous())
    parts[ranks.number()] = found
    return torch.cat(parts)[:texts]


@torch.no_grad()
def add_up(leaves: Iterable[Tensor], probed: Mapping[Tensor, Tensor]) -> None:
    """Put the sums over all processes in the place of gradients: of those of `leaves`, and of
    others by their leaf. A leaf that a process's texts do not reach, as an expert's, counts there
    as 0; where none reaches it, it stays without."""
    if ranks.count() == 1:
        return
    dense, every = list(probed.values()), list(dict.fromkeys(leaves))
    reached = torch.tensor([float(leaf.grad is not None) for leaf in every])
    _add(reached)
    for leaf, times in zip(every, reached, strict=True):
        if not times:
            continue
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        if leaf.grad.is_sparse:
            leaf.grad = leaf.grad.coalesce()
            _add(leaf.grad)
        else:
            dense.append(leaf.grad)
    flat = torch.cat([gradient.flatten() for gradient in dense])
    _add(flat)
    sums = flat.split([gradient.numel() for gradient in dense])
    for gradient, total in zip(dense, sums, strict=True):
        gradient.copy_(total.view_as(gradient))


def _add(gradient: Tensor) -> None:
    with ranks.in_step():
        distributed.all_reduce(gradient)


def check_alike(weights: Sequence[Tensor]) -> None:
    """Refuse to go on with weights that are not the same in every process.

    Raises:
        UserError: another process has others.
    """
    if ranks.count() == 1:
        return
    own = 0
    for weight in weights:
        own = zlib.crc32(weight.detach().contiguous().numpy().tobytes(), own)
    found = [0] * ranks.count()
    with ranks.in_step():
        distributed.all_gather_object(found, own)
    if len(set(found)) > 1:
        raise UserError(
            "The processes that train together have come to different weights, as they do on "
            "processors of different kinds: start them on machines that are alike."
        )
