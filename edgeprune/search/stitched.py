"""The loss of a whole shape on text, before any training: the model stitched from levels that were
each compensated in the whole one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.compress.cut.depth import references
from edgeprune.compress.cut.surgery import only_layers
from edgeprune.model.model import Model
from edgeprune.model.restored import values_restored
from edgeprune.search.blocks import Leaving
from edgeprune.search.levels import lost
from edgeprune.search.shape import Shape
from edgeprune.text.batches import Batch

_KEPT_BYTES = 1 << 30
"""Of compensated weights that are kept for the next shape that has the same level."""


class Stitched:
    """A model that runs as any shape of it would, compensated and untrained."""

    def __init__(self, model: Model, blocks: Sequence[Leaving]) -> None:
        """blocks: of the same model."""
        self._model = model
        self._blocks = {(each.layer, each.kind): each for each in blocks}
        self._levels: dict[tuple[int, str, int], tuple[Tensor, Tensor]] = {}
        self._bytes = 0

    @torch.no_grad()
    def references(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The whole model's answers, by which shapes are judged."""
        return references(self._model, batches)

    @torch.no_grad()
    def loss(self, shape: Shape, batches: Sequence[Batch], whole: Sequence[Tensor]) -> float:
        """Damage of a shape against the whole model's references; infinite where the outputs are
        not finite."""
        widths = {HEADS: shape.heads, CHANNELS: shape.channels}
        parts = [
            (self._blocks[layer, kind], kept)
            for kind, own in widths.items()
            for layer, kept in zip(shape.layers, own, strict=True)
        ]
        linears = [self._model.linear(block.linear) for block, _ in parts]
        own = [
            tensor for each in linears for tensor in (each.weight, each.bias) if tensor is not None
        ]
        levels = [self._level(block, kept) for block, kept in parts]
        with values_restored(own), only_layers(self._model, shape.layers):
            for linear, level in zip(linears, levels, strict=True):
                linear.weight.copy_(level[0])
                if linear.bias is not None:
                    linear.bias.copy_(level[1])
            return lost(self._model, batches, whole)

    def _level(self, block: Leaving, kept: int) -> tuple[Tensor, Tensor]:
        key = (block.layer, block.kind, kept)
        if key in self._levels:
            return self._levels[key]
        linear = self._model.linear(block.linear)
        left = len(block.columns) - kept // block.step
        made = block.without(linear.weight, linear.bias, left)
        size = 4 * sum(each.numel() for each in made)
        if self._bytes + size <= _KEPT_BYTES:
            self._levels[key] = made
            self._bytes += size
        return made
