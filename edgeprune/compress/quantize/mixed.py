"""Mixed precision: INT8 per channel where rounding costs most, INT4 in groups elsewhere.

The budget is one of bytes, or of time as the target's table (targets/format_times.py) predicts it.

What each linear's rounding costs the outputs is predicted or measured (sensitivity.py), tensor by
tensor; the choice of least total cost within the budget is exact (knapsack.py). That costs
add up is an assumption, and only the weights' rounding is counted, not the activations'. The idea
of precision by sensitivity is that of many tools; costs and solver are our own choice.

In the operator library's formats, query, key and value of a layer are chosen together, as are its
gate and up: the file has one product for each such set, and only if they have one format.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.maths.knapsack import Option, choose
from edgeprune.compress.quantize.hqq import hqq
from edgeprune.compress.quantize.layers import naming, round_nearest
from edgeprune.compress.quantize.plan import PRODUCTS, SPARSE, Entry, Format, Plan, in_format
from edgeprune.compress.quantize.sensitivity import COSTS
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.targets import Target
from edgeprune.targets.format_times import form_name


@torch.no_grad()
def choose_formats(
    model: Model,
    plan: Plan,
    batches: Sequence[Inputs],
    settings: QuantizeSettings,
    target: Target,
    seed: int,
) -> tuple[dict[str, Format], dict[str, dict[str, float]]]:
    """The format of each of a plan's INT8 linears, INT8 or INT4, and its predicted cost in either.

    Args:
        plan: everything that may be chosen in INT8; what is sparse stays so, and counts.
        batches: calibration text.
        target: the processor whose times count where the budget is one of time.

    Raises:
        UserError: a weight is not finite, the budget cannot be met, or it is one of time and the
            target's times are not measured.
    """
    fewer: Format = "quant-int4" if settings.operators else "int4"
    entries = [entry for entry in plan if may_choose(entry, model)]
    formats = {
        entry.name: [entry, in_format(entry, fewer, settings.group, settings.symmetric)]
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
    sparse = [entry for entry in plan if entry.format in SPARSE]
    timed = settings.linears_ms is not None
    budget = _time_budget(settings, target) if timed else _byte_budget(settings, entries, sparse)
    taken = sum(map(budget.size, sparse))
    sizes = {name: list(map(budget.size, options)) for name, options in formats.items()}
    least = taken + sum(map(min, sizes.values()))
    if least > budget.most:
        raise UserError(budget.refusal(least))
    if not entries:  # all that could be chosen is sparse
        return {}, {}
    costs = COSTS[settings.sensitivity](model, values, batches, seed)
    products = _products(entries) if settings.operators else [[entry] for entry in entries]
    items = [
        [
            Option(
                sum(sizes[entry.name][place] for entry in product),
                sum(costs[entry.name][formats[entry.name][place].format] for entry in product),
            )
            for place in range(2)
        ]
        for product in products
    ]
    chosen = choose(items, budget.most - taken)
    picked = {
        entry.name: formats[entry.name][place].format
        for product, place in zip(products, chosen, strict=True)
        for entry in product
    }
    return picked, costs


def _products(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The linears that the operator library multiplies as one, in order."""
    products: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        layer, _, own = entry.name.rpartition(".")
        products[layer, PRODUCTS.get(entry.role, own)].append(entry)
    return list(products.values())


@dataclass(frozen=True)
class _Budget:
    """A total, an entry's share of it, and the refusal where the least is more."""

    most: int
    size: Callable[[Entry], int]
    refusal: Callable[[int], str]


def _byte_budget(
    settings: QuantizeSettings, entries: Sequence[Entry], sparse: Sequence[Entry]
) -> _Budget:
    weights = sum(entry.shape[0] * entry.shape[1] for entry in [*entries, *sparse])
    return _Budget(
        int(settings.average_bits * weights / 8),
        lambda entry: entry.bytes,
        lambda least: (
            f"quantize.average_bits of {settings.average_bits:g} cannot be met: INT4 in groups of "
            f"{settings.group} takes {8 * least / weights:.2f} bits a weight with its scales."
        ),
    )


def _time_budget(settings: QuantizeSettings, target: Target) -> _Budget:
    """In nanoseconds of one call."""
    rows = settings.tokens * settings.batch

    def size(entry: Entry) -> int:
        outputs, inputs = entry.shape
        times, form = target.format_times, form_name(entry.format, entry.group)
        found = entry.predicted_us or times.microseconds(form, inputs, outputs, rows)
        if found is None:
            raise UserError(
                f"quantize.linears_ms needs times of {form} on {target.name}, and none were "
                "measured: run `edgeprune calibrate` there, or set average_bits instead."
            )
        return round(1000 * found)

    return _Budget(
        int(1e6 * (settings.linears_ms or 0)),
        size,
        lambda least: (
            f"quantize.linears_ms of {settings.linears_ms:g} cannot be met: the fastest formats "
            f"take {least / 1e6:.3f} ms on {target.name} for {rows} tokens."
        ),
    )


def may_choose(entry: Entry, model: Model) -> bool:
    """Linears that mixed precision decides on: INT8, but for tied heads and classifiers."""
    head = entry.role == "head" and (entry.tied_to is not None or not model.anatomy.causal)
    return entry.format in ("int8", "int8-token", "quant-int8") and not head
