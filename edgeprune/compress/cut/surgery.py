"""Remove feed-forward channels, attention heads and whole layers from a model's shapes.

What is left computes what the masked model computed: a channel or head that was multiplied by zero
added nothing, so taking its rows and columns away changes no output; a layer that is left out hands
on what it was given.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgeprune.base.errors import UserError
from edgeprune.model.anatomy import Attention, Block, FeedForward
from edgeprune.model.model import Model
from edgeprune.model.restored import module_restored
from edgeprune.model.settings import with_layers
from edgeprune.model.shapes import set_head_attributes


def keep_channels(model: Model, layer: int, keep: Sequence[int]) -> None:
    """Keep only the channels `keep` (present positions) of a layer's feed-forward.

    With experts, `layer` is the place among all feed-forwards of the model.

    Raises:
        UserError: nothing would be left.
    """
    part: FeedForward = model.anatomy.feed_forwards[layer]
    index = _index(keep, layer, "channels")
    for name in (part.gate, part.up):
        if name:
            _keep_outputs(model.linear(name), index)
    _keep_inputs(model.linear(part.down), index)
    model.channels[layer] = [model.channels[layer][position] for position in index.tolist()]


def keep_heads(model: Model, layer: int, keep: Sequence[int]) -> None:
    """Keep only the query heads `keep` (present positions) of a layer's attention.

    Where every query head has a key-value head of its own and nothing is cached, those leave with
    it. Otherwise the key-value heads stay, since clients size the cache by the configuration; each
    of them must keep equally many query heads.

    Raises:
        UserError: nothing would be left, the groups would differ in size, or a norm reads all
            heads together.
    """
    anatomy = model.anatomy
    if anatomy.heads_stay:
        raise UserError(
            "The queries of all heads are normed together, so that none can leave without changing "
            "the others: cut channels instead."
        )
    part: Attention = anatomy.blocks[layer].attention
    index = _index(keep, layer, "heads")
    rows = (index[:, None] * part.head_dim + torch.arange(part.head_dim)).flatten()
    _keep_outputs(model.linear(part.query), rows)
    _keep_inputs(model.linear(part.output), rows)
    for name in part.of_distances:
        _keep_outputs(model.linear(name), rows)
    if not anatomy.shared_key_value_heads:
        _keep_outputs(model.linear(part.key), rows)
        _keep_outputs(model.linear(part.value), rows)
    else:
        per_group = torch.bincount(
            index // part.heads_per_group, minlength=part.num_key_value_heads
        )
        if not bool((per_group == per_group[0]).all()):
            raise UserError(
                f"cut.heads would keep {per_group.tolist()} query heads per key-value head of "
                f"layer {layer}, and a decoder keeps equally many for each: cut channels instead."
            )
    model.heads[layer] = [model.heads[layer][position] for position in index.tolist()]
    set_head_attributes(model)


def keep_layers(model: Model, keep: Sequence[int]) -> None:
    """Keep only the layers `keep` (present positions); the configuration follows.

    Raises:
        UserError: nothing would be left.
    """
    if not keep:
        raise UserError("cut.layers would leave the model without a single layer: lower it.")
    order, blocks = sorted(keep), model.anatomy.blocks
    if model.anatomy.family.unnormed_first and order[0] != 0:
        raise UserError(
            "The first layer stays in a model of this type, for it alone has no norm before its "
            "attention: set cut.keep_first to 1 or more."
        )
    left = put_layers(model, order)
    for place, layer in enumerate(left):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):  # its place in the cache
                part.layer_idx = place  # type: ignore[assignment]
    changed = with_layers(model.config, order)
    model.config |= changed
    for name, value in changed.items():
        setattr(model.module.config, name, value)
    model.layers = [model.layers[layer] for layer in order]
    model.heads = [model.heads[layer] for layer in order]
    channels = channels_by_layer(model, blocks)
    model.channels = [own for layer in order for own in channels[layer]]


def channels_by_layer(model: Model, blocks: Sequence[Block]) -> list[list[list[int]]]:
    """The channels that are left, by layer and feed-forward; `blocks` as `model.channels` knows."""
    channels = iter(model.channels)
    return [[next(channels) for _ in block.feed_forwards] for block in blocks]


@contextmanager
def only_layers(model: Model, keep: Sequence[int]) -> Iterator[None]:
    """A module that runs only the layers `keep` for the time of a `with`, each with the window and
    the positions that are its own: transformers looks these up by a layer's place."""
    config: Any = model.module.config
    types = getattr(config, "layer_types", None)
    with module_restored(model, model.anatomy.blocks[0].name.rpartition(".")[0]):
        put_layers(model, keep)
        try:
            if types:
                config.layer_types = [types[layer] for layer in keep]
            yield
        finally:
            if types:
                config.layer_types = types


def put_layers(model: Model, keep: Sequence[int]) -> nn.ModuleList:
    """Let the module run only the layers `keep`, and nothing else know of it."""
    path = model.anatomy.blocks[0].name.rpartition(".")[0]
    layers = model.module.get_submodule(path)
    left = nn.ModuleList([layers[layer] for layer in keep])  # type: ignore[index]
    model.module.set_submodule(path, left)
    return left


def _index(keep: Sequence[int], layer: int, units: str) -> torch.Tensor:
    index = torch.as_tensor(sorted(keep), dtype=torch.long)
    if not len(index):
        raise UserError(f"cut.{units} would leave layer {layer} without any: lower it.")
    return index


def _keep_outputs(linear: nn.Linear, index: torch.Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[index].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[index].clone())
    linear.out_features = len(index)


def _keep_inputs(linear: nn.Linear, index: torch.Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[:, index].clone())
    linear.in_features = len(index)
