"""Rounded activations in torch: each linear reads its input as its format will round it.

Where a model's weights hold their planned values, this is the function that lowering has to keep.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeprune.compress.quantize.plan import GROUPED, QUANT, SPARSE, Entry, Plan
from edgeprune.model.forward import Inputs, tensors, unpadded
from edgeprune.model.model import Model

_LEVELS = 255
_LEAST = 1e-12


def round_input(values: Tensor, entry: Entry, by_text: bool = False) -> Tensor:
    """A linear's input [..., inputs] at the values that its format has codes for.

    Args:
        by_text: one dynamic scale for each text, along the first axis, as where each is run alone;
            else one for all of them.
    """
    if entry.format in GROUPED:
        return _by_group(values, entry.group or 1)
    if entry.format.endswith("-token") or entry.format in QUANT.values():
        return _symmetric(values)
    if entry.input_scale is not None and entry.input_zero_point is not None:
        fixed = torch.tensor(entry.input_scale), torch.tensor(entry.input_zero_point)
        return _unsigned(values, *fixed)
    if not values.numel():  # an expert that no token chose
        return values
    along = tuple(range(int(by_text), values.ndim))
    low = values.amin(along, keepdim=True).clamp(max=0.0)
    high = values.amax(along, keepdim=True).clamp(min=0.0)
    scale = (high - low) / _LEVELS
    scale = torch.where(scale == 0.0, torch.ones_like(scale), scale)  # zeros stay zeros
    return _unsigned(values, scale, (-low / scale).round())


def reads_rounded(entry: Entry) -> bool:
    """A tensor is a linear that multiplies integers."""
    return entry.format in ("int8", "int8-token", *SPARSE, *GROUPED, *QUANT.values())


@torch.no_grad()
def output_drift(model: Model, plan: Plan, batches: Sequence[Inputs]) -> float:
    """||f(x) - g(x)|| / ||f(x)|| over the answers to real tokens; g reads inputs rounded. Not
    finite where the answers are not."""
    plain = [_answer(model, batch) for batch in batches]
    if not any(map(reads_rounded, plan)):
        return 0.0 if all(bool(answer.isfinite().all()) for answer in plain) else math.nan
    with _rounding(model, plan):
        rounded = [_answer(model, batch) for batch in batches]
    lost = sum(float((a - b).square().sum()) for a, b in zip(plain, rounded, strict=True))
    whole = sum(float(a.square().sum()) for a in plain)
    return (lost / max(whole, _LEAST)) ** 0.5


def _answer(model: Model, batch: Inputs) -> Tensor:
    """Hidden states or logits of real tokens, or of texts."""
    output: Tensor = model.run(batch)[0]
    mask = tensors(batch)["attention_mask"]
    return unpadded(output, mask) if output.shape[:2] == mask.shape else output


@contextmanager
def _rounding(model: Model, plan: Plan) -> Iterator[None]:
    def hook(entry: Entry) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, inputs: (round_input(inputs[0], entry), *inputs[1:])

    hooks = [
        model.linear(entry.name).register_forward_pre_hook(hook(entry))
        for entry in plan
        if reads_rounded(entry)
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _unsigned(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    codes = ((values / scale).round() + zero_point).clamp(0, _LEVELS)
    return (codes - zero_point) * scale


def _symmetric(values: Tensor) -> Tensor:
    """Along the last axis, by the largest magnitude there."""
    scale = (values.abs().amax(-1, keepdim=True) / 127).clamp(min=_LEAST)
    return (values / scale).round() * scale


def _by_group(values: Tensor, group: int) -> Tensor:
    width = values.shape[-1]
    filled = nn.functional.pad(values, (0, -width % group))
    return _symmetric(filled.unflatten(-1, (-1, group))).flatten(-2)[..., :width]
