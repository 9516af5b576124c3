"""Mixed precision: INT8 per channel where rounding costs most, INT4 in groups elsewhere.

What each linear's rounding costs the outputs is predicted or measured (sensitivity.py), tensor by
tensor; the choice of least total cost within the budget of bytes is exact (knapsack.py). That costs
add up is an assumption, and only the weights' rounding is counted, not the activations'. The idea
of precision by sensitivity is that of many tools; costs and solver are our own choice.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgeprune.errors import UserError
from edgeprune.models import Model
from edgeprune.quantize.hqq import hqq
from edgeprune.quantize.knapsack import Option, choose
from edgeprune.quantize.layers import naming, round_nearest
from edgeprune.quantize.plan import SPARSE, Entry, Format, Plan, in_format
from edgeprune.quantize.sensitivity import COSTS
from edgeprune.quantize.settings import QuantizeSettings


@torch.no_grad()
def choose_formats(
    model: Model, plan: Plan, batches: Sequence[Mapping[str, Tensor]], settings: QuantizeSettings
) -> tuple[dict[str, Format], dict[str, dict[str, float]]]:
    """Which of a plan's INT8 linears become INT4, and what each was predicted to cost in each.

    Args:
        plan: everything that may be chosen in INT8; what is sparse stays so, and its bytes count.
        batches: calibration text as keyword arguments of the module.

    Raises:
        UserError: a weight is not finite, or INT4 everywhere takes more than the bits asked for.
    """
    entries = [entry for entry in plan if may_choose(entry, model)]
    formats = {
        entry.name: [entry, in_format(entry, "int4", settings.group, settings.symmetric)]
        for entry in entries
    }
    rounding = hqq if settings.method == "hqq" else round_nearest
    values: dict[str, dict[str, Tensor]] = {}
    for name, options in formats.items():
        with naming(name):
            weight = model.linear(name).weight
            rounded = [rounding(weight, entry.scheme, settings.clip) for entry in options]
        values[name] = {
            entry.format: each.dequantize() for entry, each in zip(options, rounded, strict=True)
        }
    costs = COSTS[settings.sensitivity](model, values, batches)
    things = [
        [Option(entry.bytes, costs[name][entry.format]) for entry in options]
        for name, options in formats.items()
    ]
    sparse = [entry for entry in plan if entry.format in SPARSE]
    taken = sum(entry.bytes for entry in sparse)
    weights = sum(entry.shape[0] * entry.shape[1] for entry in [*entries, *sparse])
    try:
        chosen = choose(things, int(settings.average_bits * weights / 8) - taken)
    except ValueError:
        least = 8 * (taken + sum(options[1].bytes for options in formats.values())) / weights
        raise UserError(
            f"quantize.average_bits of {settings.average_bits:g} cannot be met: INT4 in groups of "
            f"{settings.group} takes {least:.2f} bits a weight with its scales."
        ) from None
    picked = {
        name: options[index].format
        for (name, options), index in zip(formats.items(), chosen, strict=True)
    }
    return picked, costs


def may_choose(entry: Entry, model: Model) -> bool:
    """Whether mixed precision has a say: INT8 linears but for tied heads and classifiers."""
    head = entry.role == "head" and (entry.tied_to is not None or model.anatomy.kind == "encoder")
    return entry.format in ("int8", "int8-token") and not head
