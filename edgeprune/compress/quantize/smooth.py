"""Move the range of activations into weights, where a scale can be folded without a trace.

After "SmoothQuant" (Xiao et al., 2023): a linear's input x and weight W give the same product as
x / s and W * s, per input channel; s levels channels whose values are far larger than the rest,
which with one scale per tensor leave the others no codes. The division costs nothing where it
folds into what makes x:

    gate, up -> down    x = act(gate) * up: up's rows
    value -> output     the attention's weights mix tokens, not channels: value's rows
    norm -> q, k, v     the norm's weight, where nothing else reads the norm
    norm -> gate, up    the same
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeprune.compress.calibrate.watch import watch_inputs
from edgeprune.model.anatomy import Anatomy, Attention, Block
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model

_LEAST = 1e-5


@dataclass
class InputRange:
    """The range of a linear's input on calibration text, per channel."""

    largest: Tensor
    """Largest absolute value, (inputs,)."""
    squares: Tensor
    """Sum of squares over the tokens seen, (inputs,)."""
    tokens: int = 0

    def massive(self) -> float:
        """The largest value over the root mean square of all: about 4 to 20 in a plain layer."""
        mean_square = float(self.squares.mean()) / max(self.tokens, 1)
        return float(self.largest.max()) / max(mean_square**0.5, 1e-12)

    def divide(self, scale: Tensor) -> None:
        """Account for a smoothing scale that divides the input."""
        self.largest = self.largest / scale
        self.squares = self.squares / scale.square()


def observe_inputs(model: Model, batches: Sequence[Inputs]) -> dict[str, InputRange]:
    """Run batches and see the range of every linear's input; padded tokens are left out."""
    ranges: dict[str, InputRange] = {}

    def widen(name: str, rows: Tensor) -> None:
        width = rows.shape[-1]
        seen = ranges.setdefault(name, InputRange(torch.zeros(width), torch.zeros(width)))
        seen.largest = torch.maximum(seen.largest, rows.abs().amax(dim=0))
        seen.squares += rows.square().sum(dim=0)
        seen.tokens += len(rows)

    watch_inputs(model, list(model.anatomy.linears()), batches, widen, "calibrate")
    return ranges


@torch.no_grad()
def fold_smoothing(
    model: Model, ranges: dict[str, InputRange], alpha: float, norms: bool = True
) -> list[str]:
    """Fold smoothing scales into the model, whose function stays the same.

    Args:
        ranges: what `observe_inputs` saw; brought up to date.
        alpha: share of the range moved into the weights, 0 to 1.
        norms: whether to fold into norms too, and not only into up and value projections.

    Returns:
        The linears whose input is now divided by a scale.
    """
    anatomy = model.anatomy
    smoothed: list[str] = []
    for block in anatomy.blocks:
        smoothed += _fold_down(model, block, ranges, alpha)
        smoothed += _fold_output(model, block, ranges, alpha)
        if norms:
            smoothed += _fold_norms(model, block, ranges, alpha)
    return smoothed


def _scale(model: Model, readers: list[str], seen: InputRange, alpha: float) -> Tensor:
    """s = max|x|^alpha / max|W|^(1 - alpha) per input channel, with a geometric mean of one."""
    weights = torch.stack([model.linear(name).weight.abs().amax(dim=0) for name in readers])
    largest = weights.amax(dim=0).clamp(min=_LEAST)
    scale = seen.largest.clamp(min=_LEAST) ** alpha / largest ** (1 - alpha)
    return scale / scale.log().mean().exp()


def _apply(
    model: Model, readers: list[str], ranges: dict[str, InputRange], scale: Tensor
) -> list[str]:
    for name in readers:
        model.linear(name).weight.mul_(scale)
        ranges[name].divide(scale)
    return readers


def _divide_rows(linear: nn.Linear, scale: Tensor) -> None:
    linear.weight.div_(scale[:, None])
    if linear.bias is not None:
        linear.bias.div_(scale)


def _fold_down(
    model: Model, block: Block, ranges: dict[str, InputRange], alpha: float
) -> list[str]:
    part = block.feed_forward
    if part.gate is None:
        return []
    scale = _scale(model, [part.down], ranges[part.down], alpha)
    _divide_rows(model.linear(part.up), scale)
    return _apply(model, [part.down], ranges, scale)


def _fold_output(
    model: Model, block: Block, ranges: dict[str, InputRange], alpha: float
) -> list[str]:
    part = block.mixer
    if not isinstance(part, Attention):
        return []
    seen = ranges[part.output]
    # Query heads of a group read one value head: its channels take one scale for all of them.
    shape = (part.num_key_value_heads, part.heads_per_group, part.head_dim)
    scale = _scale(model, [part.output], seen, alpha).reshape(shape).amax(dim=1)
    _divide_rows(model.linear(part.value), scale.flatten())
    repeated = scale[:, None].expand(shape).flatten()
    return _apply(model, [part.output], ranges, repeated)


def _fold_norms(
    model: Model, block: Block, ranges: dict[str, InputRange], alpha: float
) -> list[str]:
    smoothed: list[str] = []
    mixer, feed_forward = block.mixer, block.feed_forward
    first = [feed_forward.gate] if feed_forward.gate else []
    for path, readers in (
        (mixer.norm, [name for name in mixer.linears() if name != mixer.output]),
        (feed_forward.norm, [*first, feed_forward.up]),
    ):
        if path is None:
            continue
        scale = _scale(model, readers, ranges[readers[0]], alpha)
        for name, parameter in model.module.get_submodule(path).named_parameters():
            offset = model.anatomy.family.norm_offset if name == "weight" else 0.0
            parameter.add_(offset).div_(scale).sub_(offset)
        smoothed += _apply(model, readers, ranges, scale)
    return smoothed


def smoothable(anatomy: Anatomy) -> bool:
    """A feed-forward's scale can be folded into its up projection in every block."""
    return all(
        block.experts is None and block.feed_forward.gate is not None for block in anatomy.blocks
    )
