"""Training through rounding: linears run as their formats will round them, and what they learn is
what is stored.

Straight through (Bengio et al., 1308.3432): in the forward pass a weight is the value of its
nearest code and an input that of its own, in the backward pass rounding is the identity within the
range and zero beyond it. The range of a channel or group is its largest weight times a clip of at
most 1, which is trained along by the gradient of the scale (LSQ: Esser et al., 1902.08153, up to
the factor between scale and clip). At the end the weights are left at the values of their codes, of
which the largest is at the end of the range, so that rounding by it gives the same codes again.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeprune.base.errors import UserError
from edgeprune.compress.context import Context
from edgeprune.compress.quantize.grid import fit_grid
from edgeprune.compress.quantize.grouped import as_groups
from edgeprune.compress.quantize.outlook import look
from edgeprune.compress.quantize.plan import Entry, Plan
from edgeprune.compress.quantize.rounding import reads_rounded, round_input
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.model.model import Model

CLIP = "clip"
"""The parameter of a linear, (channels or groups,), while it is trained so."""
_LEAST = 0.05


@contextmanager
def trained_through(model: Model, context: Context, settings: QuantizeSettings) -> Iterator[None]:
    """Run a model's linears rounded as the quantize stage would; at the end their weights are the
    values of codes.

    Raises:
        UserError: smoothing would change the weights once more before they are rounded.
    """
    outlook = look(context, model, settings)
    if outlook.treatment.smoothed:
        raise UserError(
            "recover.quantized trains for codes that stay, and this model's massive activations "
            "would be smoothed into its weights afterwards: set quantize.massive_activations to "
            "token-wise."
        )
    with rounded_linears(model, outlook.plan):
        yield


@contextmanager
def rounded_linears(model: Model, plan: Plan) -> Iterator[None]:
    """Run the linears of a plan rounded; at the end, unless by an error, their weights are the
    values of codes."""
    planned = [entry for entry in plan if reads_rounded(entry) and entry.tied_to is None]
    linears = {entry.name: model.linear(entry.name) for entry in planned}
    for entry in planned:
        linear = linears[entry.name]
        rows, columns = linear.weight.shape
        groups = rows * -(-columns // (entry.group or columns))
        linear.register_parameter(CLIP, nn.Parameter(torch.ones(groups)))
        linear.forward = functools.partial(_forward, linear, entry)  # type: ignore[method-assign]
    try:
        yield
        with torch.no_grad():
            for entry in planned:
                linear = linears[entry.name]
                linear.weight.copy_(
                    rounded(linear.weight, linear.get_parameter(CLIP), entry.scheme)
                )
    finally:
        for linear in linears.values():
            del linear.forward
            delattr(linear, CLIP)


def rounded(weight: Tensor, clip: Tensor, scheme: Scheme) -> Tensor:
    """A weight [rows, columns] at the values of its codes, differentiable in both.

    Args:
        clip: the share of each row's or group's largest weight that its range is, (rows * groups,).
    """
    groups = weight if scheme.group is None else as_groups(weight, scheme.group)
    grid = fit_grid(groups.detach(), scheme)
    scales = (grid.scales * clip.clamp(_LEAST, 1.0))[:, None]
    zero = grid.zero_points[:, None]
    steps = groups / scales
    within = torch.clamp(steps, scheme.lowest - zero, scheme.highest - zero)
    codes = within + (within.round() - within).detach()
    return (codes * scales).reshape(len(weight), -1)[:, : weight.shape[1]]


def _forward(linear: nn.Linear, entry: Entry, values: Tensor) -> Tensor:
    plain = values.float()
    read = plain + (round_input(plain, entry, by_text=True) - plain).detach()
    weight = rounded(linear.weight, linear.get_parameter(CLIP), entry.scheme)
    return nn.functional.linear(read, weight, linear.bias)
