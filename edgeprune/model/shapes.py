"""New shapes for a module's linears, and its attributes that speak of them."""

import copy
from typing import Any

import torch
from torch import nn

from edgeprune.model.anatomy import Attention
from edgeprune.model.families import find_family
from edgeprune.model.model import Model
from edgeprune.model.tasks import task_of


def resize(linear: nn.Linear, shape: tuple[int, ...]) -> None:
    """Give a linear another (outputs, inputs) shape; its values are left to be filled."""
    outputs, inputs = shape
    linear.out_features, linear.in_features = outputs, inputs
    linear.weight = nn.Parameter(torch.empty(outputs, inputs))
    if linear.bias is not None:
        linear.bias = nn.Parameter(torch.empty(outputs))


def set_head_attributes(model: Model) -> None:
    """Make every layer's attention agree with the heads that it has left."""
    anatomy = model.anatomy
    for block, heads in zip(anatomy.blocks, model.heads, strict=True):
        attention = block.mixer
        if not isinstance(attention, Attention):
            continue
        counts = {
            "heads": attention.num_heads,
            "width": attention.num_heads * attention.head_dim,
            "groups": attention.heads_per_group,
        }
        module = model.module.get_submodule(attention.module)
        for attribute, meaning in anatomy.family.head_attributes.items():
            _set_own(module, attribute, counts[meaning])
        if anatomy.family.head_bias:
            path, keyword = anatomy.family.head_bias
            _select_head_bias(model.module.get_submodule(f"{block.name}.{path}"), keyword, heads)


def _set_own(module: Any, attribute: str, value: int) -> None:
    """Set an attribute, or one of an object that layers share, of which this one gets a copy."""
    shared, _, name = attribute.rpartition(".")
    if shared:
        own = copy.copy(getattr(module, shared))
        setattr(module, shared, own)
        module = own
    setattr(module, name, value)


def without_unread_pooler(module: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Drop the pooler of a sentence encoder, which its embeddings never read."""
    pooler = find_family(config["model_type"]).unread_pooler
    if pooler and task_of(config).pools and hasattr(module, pooler):
        setattr(module, pooler, None)
    return module


def _select_head_bias(module: Any, keyword: str, heads: list[int]) -> None:
    """Let a layer see only its kept heads' slices of a bias that all layers share."""
    selected = hasattr(module, "kept_heads")
    module.kept_heads = torch.tensor(heads)
    if selected:
        return

    def select(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bias = kwargs.get(keyword)
        if bias is not None and bias.shape[1] != len(layer.kept_heads):
            kwargs = {**kwargs, keyword: bias.index_select(1, layer.kept_heads)}
        return args, kwargs

    module.register_forward_pre_hook(select, with_kwargs=True)
