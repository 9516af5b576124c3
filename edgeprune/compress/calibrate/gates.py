"""Multiplicative gates on attention heads and feed-forward channels.

A gate multiplies what a head or a channel hands to the linear after it (the attention's output
projection, the feed-forward's down projection). At 1 it changes nothing; at 0 the unit is gone, and
cutting it out of the shapes later changes nothing any more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeprune.model.anatomy import Block
from edgeprune.model.model import Model

HEADS, CHANNELS = "heads", "channels"


@dataclass(frozen=True)
class Gate:
    """The gates of one layer's heads, or of one feed-forward's channels.

    layer: the layer, or the place among the model's feed-forwards: the same but among experts.
    name: the module whose input they multiply.
    unit_size: columns of that input that belong to one gate.
    groups: the unit of each gate, where several gates share a fate; None where each is its own.
    """

    kind: str
    layer: int
    name: str
    value: Tensor
    unit_size: int
    groups: Tensor | None = None


def make_gates(model: Model, kind: str) -> list[Gate]:
    """Gates of one kind for every layer, or expert, open, ready for gradients."""
    if kind == CHANNELS:
        return [
            Gate(kind, place, part.down, torch.ones(part.channels, requires_grad=True), 1)
            for place, part in enumerate(model.anatomy.feed_forwards)
        ]
    gates, shared = [], model.anatomy.shared_key_value_heads
    for block in model.anatomy.blocks:
        part = block.attention
        groups = head_groups(block) if shared else None
        value = torch.ones(part.num_heads, requires_grad=True)
        gates.append(Gate(kind, block.index, part.output, value, part.head_dim, groups))
    return gates


def gated_linears(model: Model, gate: Gate) -> list[str]:
    """The linears that make and read the units of a gate: an attention's, or a feed-forward's."""
    if gate.kind == CHANNELS:
        return list(model.anatomy.feed_forwards[gate.layer].linears())
    return list(model.anatomy.blocks[gate.layer].attention.linears())


def head_groups(block: Block) -> Tensor:
    """The unit of each query head where key-value heads are shared: one head of every key-value
    group leaves at a time, so that the groups stay equal and clients' caches fit."""
    return torch.arange(block.attention.num_heads) % block.attention.heads_per_group


@contextmanager
def applied(model: Model, gates: list[Gate]) -> Iterator[None]:
    """Multiply the model's units by the gates for the length of the context."""
    handles = [
        model.module.get_submodule(gate.name).register_forward_pre_hook(_multiplier(gate))
        for gate in gates
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiplier(gate: Gate):  # type: ignore[no-untyped-def]
    def multiply(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = gate.value.to(args[0].dtype)
        if gate.unit_size > 1:
            value = value.repeat_interleave(gate.unit_size)
        return (args[0] * value, *args[1:])

    return multiply
