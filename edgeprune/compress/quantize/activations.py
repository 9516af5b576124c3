"""Static activations: one scale and zero point for each INT8 linear's input, from calibration text.

The codes are unsigned, (x / scale) + zero_point in [0, 255], and zero is always among the values.
Text is run twice, on the weights as they will be stored: to see each input's range, then a
histogram of it, from which a tighter range is read where one is asked for.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from edgeprune.compress.calibrate.watch import watch_inputs
from edgeprune.compress.quantize.plan import Plan
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model

_BINS = 2048
_TAIL = 1e-4
"""Share of the values beyond the range at each end, by percentile."""
_SHARES = torch.linspace(1.0, 0.2, 81).tolist()
_LEVELS = 255


@torch.no_grad()
def fix_input_scales(model: Model, plan: Plan, batches: Sequence[Inputs], how: str) -> Plan:
    """The plan with a scale and a zero point for the input of every linear in plain INT8.

    Args:
        batches: calibration text; padding is left out.
        how: "minmax", "percentile" or "mse", as `choose_range` says.
    """
    names = [entry.name for entry in plan if entry.format == "int8"]
    lows, highs = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def widen(name: str, values: Tensor) -> None:
        lows[name] = min(lows[name], float(values.min()))
        highs[name] = max(highs[name], float(values.max()))

    watch_inputs(model, names, batches, widen, "calibrate")
    counts = {name: torch.zeros(_BINS) for name in names}

    def count(name: str, values: Tensor) -> None:
        counts[name] += torch.histc(values, _BINS, lows[name], highs[name])

    if how != "minmax":
        watch_inputs(model, names, batches, count, "calibrate")
    entries = []
    for entry in plan:
        if entry.name in counts:
            low, high = choose_range(counts[entry.name], lows[entry.name], highs[entry.name], how)
            scale, zero_point = input_codes(low, high)
            entry = replace(entry, input_scale=scale, input_zero_point=zero_point)
        entries.append(entry)
    return Plan(tuple(entries))


def choose_range(counts: Tensor, low: float, high: float, how: str) -> tuple[float, float]:
    """The range [low, high] that unsigned codes should span.

    Args:
        counts: how many values fell in each of equal bins from `low` to `high`, (bins,).
        how: "minmax" is the whole range; "percentile" leaves out 0.01 % of the values at each end;
            "mse" is the share of the range, from 1.0 to 0.2, of least expected squared error.
    """
    if how == "minmax" or high <= low:
        return low, high
    width = (high - low) / len(counts)
    if how == "percentile":
        share = counts.double().cumsum(0) / counts.double().sum()
        first = int((share <= _TAIL).sum())
        last = int((share < 1 - _TAIL).sum())
        return min(0.0, low + first * width), max(0.0, low + (last + 1) * width)
    centres = low + (torch.arange(len(counts)) + 0.5) * width
    errors = []
    for share in _SHARES:
        scale, zero_point = input_codes(share * low, share * high)
        codes = ((centres / scale).round() + zero_point).clamp(0, _LEVELS)
        errors.append(float((counts * ((codes - zero_point) * scale - centres).square()).sum()))
    best = _SHARES[min(range(len(errors)), key=errors.__getitem__)]
    return best * low, best * high


def input_codes(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point with which 256 unsigned codes span a range that holds zero."""
    scale = float(torch.tensor((high - low) / _LEVELS, dtype=torch.float32)) or 1.0
    return scale, round(-low / scale)
