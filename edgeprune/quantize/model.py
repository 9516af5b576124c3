"""Quantize a model: plan every format, compute every value, leave the weights at those values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune.models import Model
from edgeprune.quantize.activations import fix_input_scales
from edgeprune.quantize.grouped import Grouped, dequantize_groups
from edgeprune.quantize.layers import LayerValues, round_layers
from edgeprune.quantize.mixed import choose_formats
from edgeprune.quantize.plan import Entry, Format, Plan, plan_formats
from edgeprune.quantize.settings import QuantizeSettings, preferred
from edgeprune.quantize.smooth import InputRange, fold_smoothing, observe_inputs, smoothable
from edgeprune.quantize.sparse import choose_sparse
from edgeprune.targets import Target

PLAN = "plan.json"
VALUES = "quantized.safetensors"
_DECODER_ALPHA = 0.5


@dataclass
class Quantized:
    """A plan with its values by name: codes (rows, columns), int8 with scales (rows,), or uint8
    with scales (rows, groups) and zero points (rows, groups) where the entry has groups."""

    plan: Plan
    codes: dict[str, Tensor] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    zero_points: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per name the largest and the relative rounding error of the weights, and of a linear that
    was rounded by its inputs, ||(W' - W) X|| / ||W X|| on the calibration text."""
    smoothed: list[str] = field(default_factory=list)
    massive: dict[str, float] = field(default_factory=dict)
    """Largest input value over the root mean square, before smoothing, of the linears beyond the
    settings' ratio."""
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mixed precision: what each tensor was predicted to cost in each format."""

    def values(self, name: str) -> Tensor:
        """The float32 weights that a tensor's codes stand for, (rows, columns)."""
        codes, scales = self.codes[name], self.scales[name]
        group = self.plan[name].group
        if group is None:
            return codes.float() * scales[:, None]
        return dequantize_groups(codes, scales, self.zero_points[name], group)

    def store(self, entry: Entry, values: LayerValues) -> None:
        """Take a tensor's codes and errors in."""
        rounded = values.rounded
        self.codes[entry.name], self.scales[entry.name] = rounded.codes, rounded.scales
        if isinstance(rounded, Grouped):
            self.zero_points[entry.name] = rounded.zero_points
        self.errors[entry.name] = values.errors

    def share(self, entry: Entry, source: str) -> None:
        """Give a tied head the codes of the embedding `source`."""
        self.codes[entry.name], self.scales[entry.name] = self.codes[source], self.scales[source]

    def summary(self) -> dict[str, Any]:
        """What was planned and done, as plain data for the manifest."""
        return {
            "plan": self.plan.to_json(),
            "errors": self.errors,
            "smoothed": self.smoothed,
            "massive_activations": self.massive,
            "costs": self.costs,
        }

    def save(self, folder: Path) -> None:
        """Write plan.json and quantized.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(json.dumps(self.summary(), indent=1))
        # A tied head shares its embedding's values and is not written again.
        own = [entry.name for entry in self.plan.quantized if entry.tied_to is None]
        parts = {"codes": self.codes, "scales": self.scales, "zero_points": self.zero_points}
        tensors = {
            f"{name}.{part}": values[name].contiguous()
            for part, values in parts.items()
            for name in own
            if name in values
        }
        save_file(tensors, folder / VALUES)

    @classmethod
    def load(cls, folder: Path) -> "Quantized":
        """Read what `save` wrote."""
        summary = json.loads((folder / PLAN).read_text())
        result = cls(
            Plan.from_json(summary["plan"]),
            errors=summary["errors"],
            smoothed=summary["smoothed"],
            massive=summary["massive_activations"],
            costs=summary["costs"],
        )
        parts = {"codes": result.codes, "scales": result.scales, "zero_points": result.zero_points}
        for key, tensor in load_file(folder / VALUES).items():
            name, part = key.rsplit(".", 1)
            parts[part][name] = tensor
        for entry in result.plan.quantized:
            if entry.tied_to is not None:
                result.share(entry, entry.tied_to)
        return result


@torch.no_grad()
def quantize_model(
    model: Model,
    batches: Sequence[Mapping[str, Tensor]],
    settings: QuantizeSettings,
    target: Target,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Quantized:
    """Plan and compute a model's codes; the module is left with exactly the values of those.

    Args:
        batches: calibration text as keyword arguments of the module (input_ids, attention_mask).
        target: the processor: it says how many bits an INT8 weight may take.
        masks: by linear, where a weight is kept; removed ones stay zero.
        seed: of what sensitivities are estimated by.

    Raises:
        UserError: a weight is not finite, or a budget of mixed precision cannot be met.
    """
    settings = preferred(settings, model.anatomy.kind, target.decode_weights)
    smoothed: list[str] = []
    massive: dict[str, float] = {}
    overrides: dict[str, Format] = {}
    if settings.weights != "none" and _watches(model, settings):
        ranges = observe_inputs(model, batches, len(batches))
        massive = _massive(ranges, settings)
        alpha = _alpha(model, settings, massive)
        if alpha is not None:
            smoothed = fold_smoothing(model, ranges, alpha)
        overrides = _overrides(model.anatomy.linears(), massive, settings)
    sparse = choose_sparse(model, settings, target)
    plan = plan_formats(model.anatomy, settings, target.weight_bits, overrides, sparse)
    costs: dict[str, dict[str, float]] = {}
    if settings.weights == "mixed":
        chosen, costs = choose_formats(model, plan, batches, settings, target, seed)
        overrides = {**overrides, **chosen}
        plan = plan_formats(model.anatomy, settings, target.weight_bits, overrides, sparse)
    result = Quantized(plan, smoothed=smoothed, massive=massive, costs=costs)
    for entry, values in round_layers(model, plan, batches, settings, masks or {}):
        result.store(entry, values)
    for entry in plan.quantized:
        if entry.tied_to is not None:
            result.share(entry, entry.tied_to)
    if settings.activations == "static":
        result.plan = fix_input_scales(model, plan, batches, settings.activation_range)
    return result


def _watches(model: Model, settings: QuantizeSettings) -> bool:
    """Whether anything depends on what the activations look like."""
    return settings.smooth is not None or (
        settings.massive_activations != "none" and model.anatomy.kind == "decoder"
    )


def _alpha(model: Model, settings: QuantizeSettings, massive: dict[str, float]) -> float | None:
    if settings.smooth is not None:
        return settings.smooth
    # Groups of weights take a token's activations in groups too: no range calls for smoothing.
    per_tensor = settings.weights in ("int8", "mixed")
    asked = per_tensor and settings.massive_activations in ("auto", "smooth")
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
