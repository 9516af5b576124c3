"""The blocks of a model, and how their units leave: the order, and what the others make up for.

Which units leave, and in which order, follows from their compensated removal (maths/structured.py)
under what the block's last linear reads on the text; layer after layer, of the whole model.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.base.progress import track
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS, Gate, make_gates
from edgeprune.compress.calibrate.walk import InputStatistics, Walk
from edgeprune.compress.cut.compensate import compensated, hessian_of, norm_weights
from edgeprune.compress.maths.structured import Removal, removal
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch

_STEPS = 96
"""Steps in which a block's units leave: one at a time where there are no more of them."""
_DAMPING = 0.01


@dataclass(frozen=True)
class Leaving:
    """A block of the whole model, and how its units leave.

    linear: its last, by name. step: units that leave together at least. columns: of the linear that
    each unit writes [units, columns]. gone: the order in which they leave, with the squared errors.
    energy: of the linear's output, the sum of its squares. seen: what the linear reads.
    """

    layer: int
    kind: str
    linear: str
    step: int
    columns: Tensor
    gone: Removal
    energy: float
    seen: InputStatistics

    def without(self, weight: Tensor, bias: Tensor | None, left: int) -> tuple[Tensor, Tensor]:
        """The linear's weight [out, in] and bias [out] without the first `left` that leave: zero
        there, the others compensated. Without a bias that is empty."""
        kept = torch.ones(weight.shape[1], dtype=torch.bool)
        kept[self.columns[self.gone.order[:left]].flatten()] = False
        narrow, shifted = compensated(weight, bias, self.seen, kept, _DAMPING)
        wide = torch.zeros_like(weight)
        wide[:, kept] = narrow
        return wide, weight.new_empty(0) if shifted is None else shifted


@torch.no_grad()
def blocks_of(model: Model, statistics: Sequence[Batch]) -> list[Leaving]:
    """The blocks of the whole model, layer after layer, attention first.

    Args:
        statistics: the text from which order and compensation are taken.

    Raises:
        UserError: the model's blocks are mixtures, short convolutions or run again and again, or
            the text gives values that are not finite.
    """
    walk = Walk(model, statistics)
    gates = {kind: make_gates(model, kind) for kind in (HEADS, CHANNELS)}
    blocks = model.anatomy.blocks
    found = []
    for block in track(blocks, "order of units", len(blocks)):
        readers = {HEADS: block.attention.output, CHANNELS: block.feed_forward.down}
        for kind, name in readers.items():
            gate, linear = gates[kind][block.index], model.linear(name)
            columns = unit_columns(gate)
            seen = walk.inputs(
                block, name, functools.partial(norm_weights, linear.weight, linear.bias)
            )
            hessian = hessian_of(seen, linear.bias is not None, _DAMPING)
            together = max(1, len(columns) // _STEPS)
            gone = removal(linear.weight, hessian, columns, together)
            step = len(gate.value) // len(columns)
            weight = linear.weight.double()
            energy = float(((weight @ hessian) * weight).sum())
            found.append(Leaving(block.index, kind, name, step, columns, gone, energy, seen))
        walk.advance(block)
    return found


def unit_columns(gate: Gate) -> Tensor:
    """The columns of each unit of a gate [units, columns]; heads that share a fate are one unit."""
    columns = torch.arange(len(gate.value) * gate.unit_size).view(-1, gate.unit_size)
    if gate.groups is None:
        return columns
    units = int(gate.groups.max()) + 1
    return torch.stack([columns[gate.groups == unit].flatten() for unit in range(units)])
