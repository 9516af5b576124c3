"""Quantize a model: plan every format, compute every value, leave the weights at those values."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeprune.compress.quantize.activations import fix_input_scales
from edgeprune.compress.quantize.grouped import Grouped, dequantize_groups
from edgeprune.compress.quantize.layers import LayerValues, round_layers
from edgeprune.compress.quantize.massive import Treatment, activation_drift, treat
from edgeprune.compress.quantize.mixed import choose_formats
from edgeprune.compress.quantize.plan import Entry, Format, Plan, plan_formats
from edgeprune.compress.quantize.settings import QuantizeSettings, preferred
from edgeprune.compress.quantize.sparse import choose_sparse
from edgeprune.compress.quantize.value_files import ValueFiles
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.model.tensor_files import CODES, SCALES, ZERO_POINTS, Place
from edgeprune.targets import Target

PLAN = "plan.json"
VALUES = "quantized.safetensors"
VALUES_APART = "quantized"
"""The folder with a file for each tensor, of a streamed model."""


@dataclass
class Quantized:
    """A plan with its values by name: codes (rows, columns), int8 with scales (rows,), or uint8
    with scales (rows, groups) and zero points (rows, groups) where the entry has groups."""

    plan: Plan
    codes: dict[str, Tensor] | ValueFiles = field(default_factory=dict)
    scales: dict[str, Tensor] | ValueFiles = field(default_factory=dict)
    zero_points: dict[str, Tensor] | ValueFiles = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per name the largest and the relative rounding error of the weights, and of a linear that
    was rounded by its inputs, ||(W' - W) X|| / ||W X|| on the calibration text."""
    smoothed: list[str] = field(default_factory=list)
    massive: dict[str, float] = field(default_factory=dict)
    """Largest input value over the root mean square, before smoothing, of the linears in which
    that is massive."""
    activation_drift: float = 0.0
    """Change of the outputs by rounded activations alone, relative to their size."""
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mixed precision: what each tensor was predicted to cost in each format."""

    def values(self, name: str) -> Tensor:
        """The float32 weights that a tensor's codes stand for, (rows, columns)."""
        codes, scales = self.codes[name], self.scales[name]
        group = self.plan[name].group
        if group is None:
            return codes.float() * scales[:, None]
        return dequantize_groups(codes, scales, self.zero_points[name], group)

    @property
    def _parts(self) -> dict[str, dict[str, Tensor] | ValueFiles]:
        return {CODES: self.codes, SCALES: self.scales, ZERO_POINTS: self.zero_points}

    def store(self, entry: Entry, values: LayerValues) -> None:
        """Store a tensor's codes and errors."""
        rounded = values.rounded
        made = {CODES: rounded.codes, SCALES: rounded.scales}
        if isinstance(rounded, Grouped):
            made[ZERO_POINTS] = rounded.zero_points
        if isinstance(self.codes, ValueFiles):
            self.codes.write(entry.name, made)
        for part, tensors in self._parts.items():
            if isinstance(tensors, dict) and part in made:
                tensors[entry.name] = made[part]
        self.errors[entry.name] = values.errors

    def share(self, entry: Entry, source: str) -> None:
        """Give a tied head the codes of the embedding `source`."""
        for tensors in (self.codes, self.scales):
            if isinstance(tensors, ValueFiles):
                tensors.share(entry.name, source)
            else:
                tensors[entry.name] = tensors[source]

    def keep_in(self, folder: Path) -> None:
        """Have the values in files below a folder, and in memory only where they are asked for."""
        place = folder / VALUES_APART
        self.codes, self.scales = ValueFiles(place, CODES), ValueFiles(place, SCALES)
        self.zero_points = ValueFiles(place, ZERO_POINTS)

    def summary(self) -> dict[str, Any]:
        """The plan and its errors, as plain data for the manifest."""
        return {
            "plan": self.plan.to_json(),
            "errors": self.errors,
            "smoothed": self.smoothed,
            "massive_activations": self.massive,
            "activation_drift": self.activation_drift,
            "costs": self.costs,
        }

    def save(self, folder: Path) -> None:
        """Write plan.json and quantized.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(json.dumps(self.summary(), indent=1))
        if isinstance(self.codes, ValueFiles):
            return  # written one by one
        # A tied head shares its embedding's values and is not written again.
        own = [entry.name for entry in self.plan.quantized if entry.tied_to is None]
        tensors = {
            f"{name}.{part}": values[name].contiguous()
            for part, values in self._parts.items()
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
            activation_drift=summary["activation_drift"],
            costs=summary["costs"],
        )
        if (folder / VALUES_APART).is_dir():
            result.keep_in(folder)
        else:
            for key, tensor in load_file(folder / VALUES).items():
                name, part = key.rsplit(".", 1)
                result._parts[part][name] = tensor  # type: ignore[index]
        for entry in result.plan.quantized:
            if entry.tied_to is not None:
                result.share(entry, entry.tied_to)
        return result


Planner = Callable[[Mapping[str, Format]], Plan]
"""The plan with these formats for some linears."""


def planner(model: Model, settings: QuantizeSettings, target: Target) -> Planner:
    """A function that plans a model, whose empty blocks are counted once."""
    sparse = choose_sparse(model, settings, target)
    return lambda formats: plan_formats(
        model.anatomy, settings, target.weight_bits, formats, sparse
    )


@torch.no_grad()
def plan_model(
    model: Model,
    batches: Sequence[Inputs],
    settings: QuantizeSettings,
    plan_with: Planner,
) -> tuple[Treatment, Plan, float]:
    """The treatment of massive activations, the plan, and the drift of the outputs that rounded
    activations then cause. Smoothing is folded into the model, whose function stays."""
    treatment = treat(model, batches, settings, plan_with)
    plan = plan_with(treatment.formats)
    return treatment, plan, activation_drift(model, plan, batches, settings)


@torch.no_grad()
def quantize_model(
    model: Model,
    batches: Sequence[Inputs],
    settings: QuantizeSettings,
    target: Target,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> Quantized:
    """Plan and compute a model's codes; the module is left with exactly the values of those.

    Args:
        batches: calibration text.
        target: the processor: it says how many bits an INT8 weight may take.
        masks: by linear, where a weight is kept; removed ones stay zero.
        seed: of what sensitivities are estimated by.
        folder: where a streamed model's values are kept, since they are too many for memory.

    Raises:
        UserError: a weight is not finite, or a budget of mixed precision cannot be met.
    """
    settings = preferred(settings, model.anatomy.has_cache, target.decode_weights)
    plan_with = planner(model, settings, target)
    treatment, plan, drift = plan_model(model, batches, settings, plan_with)
    costs: dict[str, dict[str, float]] = {}
    if settings.weights == "mixed":
        chosen, costs = choose_formats(model, plan, batches, settings, target, seed)
        plan = plan_with({**treatment.formats, **chosen})
    result = Quantized(
        plan,
        smoothed=treatment.smoothed,
        massive=treatment.massive,
        activation_drift=drift,
        costs=costs,
    )
    if model.streamed is not None and folder is not None:
        result.keep_in(folder)
    for entry, values in round_layers(model, plan, batches, settings, masks or {}):
        result.store(entry, values)
        if isinstance(result.codes, ValueFiles) and model.streamed is not None:
            place = Place(result.codes.file(entry.name), integers=True, group=entry.group)
            model.streamed.tensors.put(f"{entry.name}.weight", place)
    for entry in plan.quantized:
        if entry.tied_to is not None:
            result.share(entry, entry.tied_to)
    if settings.activations == "static":
        result.plan = fix_input_scales(model, plan, batches, settings.activation_range)
    return result
