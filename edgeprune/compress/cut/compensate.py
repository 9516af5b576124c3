"""Let what stays of a linear make up for the inputs that a cut takes from it.

Its bias alone, which takes over their means on the text (FLAP); or all of it, by least squares on
the kept inputs of each down projection, as Thanos and SparseGPT correct weights, layer after layer:
each sees what the cut layers before it hand on.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.gates import make_gates
from edgeprune.compress.calibrate.walk import InputStatistics, Walk
from edgeprune.compress.cut.collect import means
from edgeprune.compress.cut.surgery import keep_channels
from edgeprune.compress.maths.obs import damped, least_squares
from edgeprune.model.anatomy import Block
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


@torch.no_grad()
def keep_means(model: Model, kind: str, kept: Sequence[Tensor], batches: Sequence[Batch]) -> None:
    """Add to biases what the units that are about to leave hand on in the mean.

    Linears without a bias stay as they are: there, units that leave are replaced by zero.

    Args:
        kept: masks [units] of a kind of unit, one per layer.
    """
    gates = make_gates(model, kind)
    biased = [
        (gate, mask.bool())
        for gate, mask in zip(gates, kept, strict=True)
        if model.linear(gate.name).bias is not None
    ]
    found = means(model, [gate for gate, _ in biased], batches) if biased else {}
    for gate, mask in biased:
        linear = model.linear(gate.name)
        positions = mask if gate.groups is None else mask[gate.groups]
        gone = ~positions.repeat_interleave(gate.unit_size)
        with model.opened(gate.name):
            shift = linear.weight[:, gone].double() @ found[gate.name][gone]
            linear.bias.add_(shift.to(linear.bias.dtype))


@torch.no_grad()
def cut_channels(
    model: Model, kept: Sequence[Tensor], batches: Sequence[Batch], damping: float
) -> None:
    """Cut the channels that `kept` [channels] marks False out of every layer, compensated.

    Raises:
        UserError: the text gives values that are not finite.
    """
    walk = Walk(model, batches)
    blocks = model.anatomy.blocks
    for block, mask in track(zip(blocks, kept, strict=True), "compensating", len(blocks)):
        with model.opened(block.name):
            if not bool(mask.all()):
                _cut_block(model, walk, block, mask.bool(), damping)
            walk.advance(block)


def _cut_block(model: Model, walk: Walk, block: Block, keep: Tensor, damping: float) -> None:
    down = model.linear(block.feed_forward.down)
    # By a fork: what comes before is cut, too.
    weigh = functools.partial(norm_weights, down.weight, down.bias)
    inputs = walk.fork().inputs(block, block.feed_forward.down, weigh)
    weight, bias = compensated(down.weight, down.bias, inputs, keep, damping)
    if not bool(torch.isfinite(weight).all()):
        raise UserError(
            f"{block.feed_forward.down} would be corrected to values that are not finite: "
            "raise cut.samples."
        )
    keep_channels(model, block.index, keep.nonzero().flatten().tolist())
    down.weight.copy_(weight)
    if bias is not None:
        down.bias.copy_(bias)


def norm_weights(weight: Tensor, bias: Tensor | None, rows: Tensor, entered: Tensor) -> Tensor:
    """Token weights [tokens], 1/norm^2 of the residual after the layer.

    Errors then count as the next norm will see them, which divides a token by its size. Without
    weights a few tokens of massive activations, whose errors it makes small, would outweigh all
    others, whose errors it leaves.

    Args:
        rows: what the linear reads [tokens, in].
        entered: the hidden states that the linear's output is added to, or near to it
            [tokens, width].
    """
    written = functional.linear(rows, weight, bias)
    return 1 / (written.square().sum(1) + entered.square().sum(1)).clamp(min=1e-12)


def compensated(
    weight: Tensor, bias: Tensor | None, inputs: InputStatistics, kept: Tensor, damping: float
) -> tuple[Tensor, Tensor | None]:
    """The weight [out, kept] and bias [out] on the `kept` inputs that come nearest W x + b.

    With a bias, deviations from the mean are fitted and the bias makes the means agree: least
    squares over weight and bias together. Without one, the inputs as they are.

    Args:
        weight: [out, in].
        inputs: what the linear reads over the text.
        kept: mask [in].
        damping: share of the mean diagonal that is added to the Gram matrix's.
    """
    fitted = least_squares(weight, hessian_of(inputs, bias is not None, damping), kept)
    if bias is None:
        return fitted.to(weight.dtype), None
    mean = inputs.total.double() / inputs.tokens
    shift = weight.double() @ mean - fitted @ mean[kept]
    return fitted.to(weight.dtype), (bias.double() + shift).to(bias.dtype)


def hessian_of(inputs: InputStatistics, biased: bool, damping: float) -> Tensor:
    """The damped Hessian [in, in], float64, under which inputs leave: of the deviations from the
    mean where a bias makes up for that, else of the inputs as they are."""
    gram = inputs.gram.double()
    if biased:
        mean = inputs.total.double() / inputs.tokens
        gram = gram - inputs.tokens * torch.outer(mean, mean)
    return damped(gram, damping)
