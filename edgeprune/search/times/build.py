"""A model of a wanted shape as a graph, by the way that a build takes: cut, quantize, emit, lower.

Its weights are the first heads and channels of the original's, and calibration sees random tokens:
how long a product takes hangs on its sizes alone. Nothing of it is shipped, so that its passes are
not checked; in a build they are.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.surgery import keep_channels, keep_heads, keep_layers
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.rewrite.run import passes_for
from edgeprune.model.model import Model
from edgeprune.model.store import save_model
from edgeprune.search.shape import Shape
from edgeprune.search.times.settings import FORMS, Form
from edgeprune.targets import Target

_TOKENS = 8
_PLAIN: Mapping[str, Any] = {"massive_activations": "none", "sparse": False}
# A form is the same in all linears: what single ones get instead is a plan's to add.
QUANTIZE: Mapping[Form, Mapping[str, Any]] = {
    "float32": {"weights": "none", "embeddings": False},
    "int8": _PLAIN,
    "int8-token": {"activations": "token", **_PLAIN},
    **{form: {"weights": "int4", "group": int(form[5:]), **_PLAIN} for form in FORMS[3:]},
}


def write_graph(
    original: Model, shape: Shape, form: Form, target: Target, folder: Path, seed: int = 0
) -> Path:
    """Write the graph of a model of this shape into a folder, with its configuration; returns the
    graph's file.

    Raises:
        UserError: models of this family have no graph that is emitted.
    """
    settings = QuantizeSettings(**QUANTIZE[form])
    return write_quantized(original, shape, settings, target, folder, seed)


def write_quantized(
    original: Model,
    shape: Shape,
    settings: QuantizeSettings,
    target: Target,
    folder: Path,
    seed: int = 0,
) -> Path:
    """The same of a model that is quantized by these settings.

    Raises:
        UserError: models of this family have no graph that is emitted.
    """
    model = copy.copy(original)
    model.module = copy.deepcopy(original.module)
    model.config = dict(original.config)
    for name in ("layers", "heads", "channels"):
        setattr(model, name, list(getattr(original, name)))
    keep_layers(model, shape.layers)
    units = _first_units(model)
    for place, (heads, channels) in enumerate(zip(shape.heads, shape.channels, strict=True)):
        if heads < model.anatomy.blocks[place].attention.num_heads:
            keep_heads(model, place, units(heads))
        keep_channels(model, place, range(channels))
    quantized = quantize_model(model, [_random_batch(model, seed)], settings, target)
    save_model(model, folder)
    graph = emitted(folder, target.skip_layer_norm_harmful)
    if graph is None:
        raise UserError(
            f"The graph of a {model.config['model_type']} model is traced, and times of blocks are "
            "of graphs that are written here: leave the blocks out."
        )
    for step in passes_for(model.anatomy, quantized, target, emitted=True):
        step.change(graph)
    file = folder / "model.onnx"
    graph.save(file)
    return file


def _first_units(model: Model) -> Any:
    """A function of a number of heads: that many, the first of each key-value head's."""
    anatomy = model.anatomy
    part = anatomy.attentions[0]
    if not anatomy.shared_key_value_heads:
        return range

    def first(heads: int) -> list[int]:
        each = heads // part.num_key_value_heads
        return [
            group * part.heads_per_group + place
            for group in range(part.num_key_value_heads)
            for place in range(each)
        ]

    return first


def _random_batch(model: Model, seed: int) -> dict[str, torch.Tensor]:
    rows, _ = model.anatomy.shape(model.anatomy.embeddings["word"])
    ids = np.random.default_rng(seed).integers(0, rows, (1, _TOKENS))
    batch = {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.ones(1, _TOKENS, dtype=torch.long),
    }
    if model.reads_token_types:
        batch["token_type_ids"] = torch.zeros(1, _TOKENS, dtype=torch.long)
    return batch
