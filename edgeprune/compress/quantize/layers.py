"""Round a model's tensors as planned, one after the other; each is left at the values it will have.

Rounding to nearest and HQQ look at a tensor alone. GPTQ walks the calibration text through the
blocks, so that each linear is rounded for inputs that come from rounded linears; what stands
outside the blocks (embeddings, heads) is rounded to nearest there too, the embeddings first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.maths.obs import relative_error
from edgeprune.compress.quantize.gptq import gptq
from edgeprune.compress.quantize.grouped import Grouped, round_groups
from edgeprune.compress.quantize.hqq import hqq
from edgeprune.compress.quantize.int8 import Rounded, round_rows
from edgeprune.compress.quantize.plan import SPARSE, Entry, Plan
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model


@dataclass(frozen=True)
class LayerValues:
    """A tensor's codes and errors by name."""

    rounded: Rounded | Grouped
    output_error: float | None = None
    """||(W' - W) X|| / ||W X|| on the calibration text, where that was run."""

    @property
    def errors(self) -> dict[str, float]:
        """Errors by name, for the manifest."""
        found = {
            "largest": self.rounded.largest_error,
            "relative": self.rounded.relative_error,
        }
        return found if self.output_error is None else {**found, "output": self.output_error}


_AT_A_TIME = 8_000_000
"""Weights that are rounded at a time: rows know nothing of each other, and a fit to them takes
several times their memory."""


def round_nearest(weight: Tensor, scheme: Scheme, clip: str = "absmax") -> Rounded | Grouped:
    """Round a weight to nearest, by rows or by groups."""

    def rounded(rows: Tensor) -> Rounded | Grouped:
        if scheme.group is None:
            return round_rows(rows, scheme.bits, clip)
        return round_groups(rows, scheme, clip)

    parts = [rounded(rows) for rows in weight.split(max(1, _AT_A_TIME // weight.shape[1]))]
    return parts[0] if len(parts) == 1 else joined(weight, parts)


def joined(weight: Tensor, parts: Sequence[Rounded | Grouped]) -> Rounded | Grouped:
    """A weight whose rows were rounded in parts."""
    rows = weight.split([len(part.codes) for part in parts])
    norms = [float(each.norm()) for each in rows]
    errors = (part.relative_error * norm for part, norm in zip(parts, norms, strict=True))
    named = ("codes", "scales", "zero_points")
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in named
        if hasattr(parts[0], name)
    }
    return replace(
        parts[0],
        **tensors,
        largest_error=max(part.largest_error for part in parts),
        relative_error=math.hypot(*errors) / (math.hypot(*norms) or 1.0),
    )


@torch.no_grad()
def round_layers(
    model: Model,
    plan: Plan,
    batches: Sequence[Inputs],
    settings: QuantizeSettings,
    masks: Mapping[str, Tensor],
) -> Iterator[tuple[Entry, LayerValues]]:
    """Round every planned tensor in place and yield its codes; a tied head has none of its own.
    What is rounded of a streamed model is to be read from its codes from then on.

    Args:
        batches: calibration text, which GPTQ reads.
        masks: by linear, where a weight is kept. All methods leave zeros at zero; GPTQ needs to
            know which, since it moves weights before it rounds them.

    Raises:
        UserError: a weight or what a linear reads is not finite.
    """
    planned = {entry.name: entry for entry in plan.quantized if entry.tied_to is None}
    by_inputs = set(model.anatomy.block_linears()) if settings.method == "gptq" else set()
    alone = [entry for name, entry in planned.items() if name not in by_inputs]
    method = hqq if settings.method == "hqq" else round_nearest
    for entry in track(alone, "rounding tensors", len(alone)):
        with naming(entry.name), model.opened(entry.name):
            weight = _weight(model, entry.name)
            rounded = method(weight, entry.scheme, settings.clip)
            if model.streamed is None:
                weight.copy_(rounded.dequantize())
        yield entry, LayerValues(rounded)
    if by_inputs & planned.keys():
        yield from _round_blocks(model, planned, batches, settings, masks)


def _round_blocks(
    model: Model,
    planned: Mapping[str, Entry],
    batches: Sequence[Inputs],
    settings: QuantizeSettings,
    masks: Mapping[str, Tensor],
) -> Iterator[tuple[Entry, LayerValues]]:
    walk = Walk(model, batches)
    blocks = model.anatomy.blocks
    for block in track(blocks, "rounding layers", len(blocks)):
        with model.opened(block.name):
            for names in input_groups(block):
                wanted = [name for name in names if name in planned]
                gram = walk.inputs(block, names[0]).gram if wanted else torch.zeros(0)
                for name in wanted:
                    weight, entry = _weight(model, name), planned[name]
                    before = weight.clone()
                    # A sparse format was chosen by the zeros that are there, masked or not.
                    kept = before != 0 if entry.format in SPARSE else masks.get(name)
                    with naming(name):
                        rounded = gptq(
                            before,
                            gram,
                            entry.scheme,
                            settings.clip,
                            kept,
                            settings.damping,
                            settings.act_order,
                        )
                    weight.copy_(rounded.dequantize())
                    yield entry, LayerValues(rounded, relative_error(before, weight, gram))
            walk.advance(block)


def _weight(model: Model, name: str) -> Tensor:
    module: nn.Module = model.module.get_submodule(name)
    return module.weight  # type: ignore[return-value]


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say which tensor it was that could not be rounded."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{name} cannot be quantized: {error}.") from error
