"""Linears that are worth a sparse format, by the zeros in their weights and the target's table.

Zeros are looked for in the weights, not in masks: a cut moves blocks, an unstructured mask leaves
whole blocks of 4x1 behind, and what is exactly zero here is what a file can leave out.
"""

from torch import Tensor
from torch.nn import functional

from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.kernels.formats import FORMATS, Format
from edgeprune.model.model import Model
from edgeprune.targets import Target
from edgeprune.targets.break_even import Choice

_INT8 = [form for form in FORMATS.values() if form.dtype == "int8"]


def choose_sparse(model: Model, settings: QuantizeSettings, target: Target) -> dict[str, Choice]:
    """The linears of the blocks that are faster sparse on the target, and in which format.

    Rounding keeps every zero, so that what is chosen before it holds after it. A weight without an
    empty block stays dense unless `settings.sparse` is "whole", though for a single row the
    operators may be faster even then.
    """
    if not settings.sparse:
        return {}
    rows = settings.tokens * settings.batch
    chosen = {}
    for name in model.anatomy.block_linears():
        with model.opened(name):
            weight = model.linear(name).weight.detach()
            shares = {form.name: empty_share(weight, form) for form in _INT8}
        outputs, inputs = weight.shape
        empty = {n: share for n, share in shares.items() if share or settings.sparse == "whole"}
        choice = target.break_even.choose(empty, inputs, outputs, rows)
        if choice is not None:
            chosen[name] = choice
    return chosen


def empty_share(weight: Tensor, form: Format) -> float:
    """Share of a weight's [outputs, inputs] blocks that are all zero; ragged ones count whole."""
    outputs, inputs = weight.shape
    there = functional.pad(weight != 0, (0, -inputs % form.inputs, 0, -outputs % form.outputs))
    rows, columns = there.shape[0] // form.outputs, there.shape[1] // form.inputs
    blocks = there.reshape(rows, form.outputs, columns, form.inputs)
    return 1 - float(blocks.any(3).any(1).float().mean())
