"""Quantize a model: plan every format, compute every value, leave the weights at those values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune.errors import UserError
from edgeprune.models import Model
from edgeprune.quantize.int8 import round_rows
from edgeprune.quantize.plan import Format, Plan, plan_formats
from edgeprune.quantize.settings import QuantizeSettings
from edgeprune.quantize.smooth import InputRange, fold_smoothing, observe_inputs, smoothable
from edgeprune.quantize.sparse import choose_sparse
from edgeprune.targets import Target

PLAN = "plan.json"
VALUES = "quantized.safetensors"
_DECODER_ALPHA = 0.5


@dataclass
class Quantized:
    """A plan with its values: int8 codes (rows, columns) and float32 scales (rows,) by name."""

    plan: Plan
    codes: dict[str, Tensor]
    scales: dict[str, Tensor]
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per name the largest and the relative rounding error of the weights."""
    smoothed: list[str] = field(default_factory=list)
    massive: dict[str, float] = field(default_factory=dict)
    """Largest input value over the root mean square, before smoothing, of the linears beyond the
    settings' ratio."""

    def summary(self) -> dict[str, Any]:
        """What was planned and done, as plain data for the manifest."""
        return {
            "plan": self.plan.to_json(),
            "errors": self.errors,
            "smoothed": self.smoothed,
            "massive_activations": self.massive,
        }

    def save(self, folder: Path) -> None:
        """Write plan.json and quantized.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(json.dumps(self.summary(), indent=1))
        # A tied head shares its embedding's values and is not written again.
        own = [entry.name for entry in self.plan.quantized if entry.tied_to is None]
        tensors = {f"{name}.codes": self.codes[name].contiguous() for name in own}
        tensors |= {f"{name}.scales": self.scales[name].contiguous() for name in own}
        save_file(tensors, folder / VALUES)

    @classmethod
    def load(cls, folder: Path) -> "Quantized":
        """Read what `save` wrote."""
        summary = json.loads((folder / PLAN).read_text())
        tensors = load_file(folder / VALUES)
        parts: dict[str, dict[str, Tensor]] = {"codes": {}, "scales": {}}
        for key, tensor in tensors.items():
            name, part = key.rsplit(".", 1)
            parts[part][name] = tensor
        plan = Plan.from_json(summary["plan"])
        for entry in plan.quantized:
            if entry.tied_to is not None:
                for values in parts.values():
                    values[entry.name] = values[entry.tied_to]
        return cls(
            plan,
            parts["codes"],
            parts["scales"],
            summary["errors"],
            summary["smoothed"],
            summary["massive_activations"],
        )


@torch.no_grad()
def quantize_model(
    model: Model,
    batches: Sequence[Mapping[str, Tensor]],
    settings: QuantizeSettings,
    target: Target,
) -> Quantized:
    """Plan and compute a model's INT8 weights; the module is left with exactly those values.

    Args:
        batches: calibration text as keyword arguments of the module (input_ids, attention_mask).
        target: the processor: it says how many bits a weight may take.

    Raises:
        UserError: a weight is not finite.
    """
    ranges: dict[str, InputRange] = {}
    smoothed: list[str] = []
    massive: dict[str, float] = {}
    overrides: dict[str, Format] = {}
    if settings.weights == "int8" and _watches(model, settings):
        ranges = observe_inputs(model, batches, len(batches))
        massive = _massive(ranges, settings)
        alpha = _alpha(model, settings, massive)
        if alpha is not None:
            smoothed = fold_smoothing(model, ranges, alpha)
        overrides = _overrides(model.anatomy.linears(), massive, settings)
    sparse = choose_sparse(model, settings, target)
    plan = plan_formats(model.anatomy, settings, target.weight_bits, overrides, sparse)
    result = Quantized(plan, {}, {}, smoothed=smoothed, massive=massive)
    for entry in plan.quantized:
        if entry.tied_to is not None:
            result.codes[entry.name] = result.codes[entry.tied_to]
            result.scales[entry.name] = result.scales[entry.tied_to]
            continue
        module: nn.Module = model.module.get_submodule(entry.name)
        weight: Tensor = module.weight  # type: ignore[assignment]
        try:
            rounded = round_rows(weight, plan.bits, settings.clip)
        except ValueError as error:
            raise UserError(f"{entry.name} cannot be quantized: {error}.") from error
        weight.copy_(rounded.dequantize())
        result.codes[entry.name] = rounded.codes
        result.scales[entry.name] = rounded.scales
        result.errors[entry.name] = {
            "largest": rounded.largest_error,
            "relative": rounded.relative_error,
        }
    return result


def _watches(model: Model, settings: QuantizeSettings) -> bool:
    """Whether anything depends on what the activations look like."""
    return settings.smooth is not None or (
        settings.massive_activations != "none" and model.anatomy.kind == "decoder"
    )


def _alpha(model: Model, settings: QuantizeSettings, massive: dict[str, float]) -> float | None:
    if settings.smooth is not None:
        return settings.smooth
    asked = settings.massive_activations in ("auto", "smooth")
    return _DECODER_ALPHA if asked and massive and smoothable(model.anatomy) else None


def _massive(ranges: dict[str, InputRange], settings: QuantizeSettings) -> dict[str, float]:
    found = {name: seen.massive() for name, seen in ranges.items()}
    return {name: ratio for name, ratio in found.items() if ratio > settings.massive_ratio}


def _overrides(
    names: Iterable[str], massive: dict[str, float], settings: QuantizeSettings
) -> dict[str, Format]:
    """The linears that need more than one scale per tensor.

    A scale per token everywhere costs a prompt 14 % of its speed (3.1x float32's plain export
    becomes 2.7x, decoding stays 2.8x; Zen 4, one thread, 128 tokens) and is worth it.
    SmolLM2-135M, 5 windows of 512 tokens of WikiText-2, perplexity over float32's: smoothing alone
    +21.6 %; with a scale per token for down projections +4.1 %, for those and the head +3.0 %, for
    every linear +1.9 % (without smoothing +4.9 %). The weights' rounding costs +0.1 % of it.
    """
    if not massive:
        return {}
    if settings.massive_activations in ("auto", "token-wise"):
        return dict.fromkeys(names, "int8-token")
    if settings.massive_activations == "float":
        return dict.fromkeys(massive, "float32")
    return {}
