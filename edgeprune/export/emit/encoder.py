"""Write an encoder's graph from what its family says of it and from its tensors.

    ids ─> embeddings ─> norm ─> layers ─> last_hidden_state, or logits by text_head.py

    layer   x ─> attention ─> + x ─> norm ─> up ─> activation ─> down ─> + ─> norm

The form is that which the rewriting leaves of a trace. Layers may differ: every count is read off
the shapes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from edgeprune.export.attention_nodes import attend, padding_mask
from edgeprune.export.emit.activations import ACTIVATIONS
from edgeprune.export.emit.distance_bias import DistanceBiases
from edgeprune.export.emit.distance_scores import DistanceScores
from edgeprune.export.emit.text_head import FIRST, answer_of, logits_of, pooled, writes_head
from edgeprune.export.emit.weights import Weights
from edgeprune.export.emit.writer import BATCH, TOKENS, Writer, path_of
from edgeprune.export.graph import Graph
from edgeprune.model.anatomy import Anatomy, Block
from edgeprune.model.decoder_function import HeadLayers
from edgeprune.model.distances import read_distances
from edgeprune.model.families import EncoderFunction, position_offset
from edgeprune.model.tasks import Task

_EPSILON = 1e-12
Projections = tuple[str, str, str]
"""A layer's query, key and value (B,S,H*D)."""
Attend = Callable[[Block, Projections], str]
"""Writes a layer's attention; gives what its output projection reads."""


def writes_encoder(function: EncoderFunction, config: Mapping[str, Any], task: Task) -> bool:
    """Whether a model with these settings, and with a task's head, can be written."""
    return (
        all(config.get(name, value) == value for name, value in function.written.items())
        and config.get(function.activation) in ACTIVATIONS
        and writes_head(_head_of(function, task), config, FIRST, task)
    )


def _head_of(function: EncoderFunction, task: Task) -> HeadLayers:
    return function.token_head if task.logits_axes == 3 else function.label_head


@dataclass
class _Encoder:
    """One encoder while it is written."""

    writer: Writer
    function: EncoderFunction
    anatomy: Anatomy
    config: Mapping[str, Any]
    sum: str
    """The operator of a residual addition."""

    @property
    def graph(self) -> Graph:
        return self.writer.graph

    @property
    def epsilon(self) -> float:
        setting = self.function.epsilon
        return float(self.config[setting]) if setting else _EPSILON

    def norm(self, x: str, module: str) -> str:
        return self.writer.norm(x, module, self.epsilon)

    def embedded(self) -> str:
        """The first layer's input (B,S,W)."""
        tables, prefix = self.anatomy.embeddings, self.anatomy.prefix
        x = self.writer.rows(tables["word"], "input_ids")
        added = {"token_type": self.token_types, "position": self.positions}
        present = [role for role in added if role in tables]
        for place, role in enumerate(present):
            rows = self.writer.rows(tables[role], added[role]())
            # The sum that a norm reads is a residual's, to the runtime.
            operator = self.sum if role == present[-1] else "Add"
            path = path_of(f"{prefix}embeddings")
            x = self.graph.add(operator, [x, rows], f"{path}/Add_{place}")
        projection = f"{prefix}{self.function.projection}"
        projects, first = self.has(projection), self.function.projects_first
        if projects and first:
            x = self.writer.linear(x, projection)
        x = self.norm(x, prefix + self.function.embedding_norm)
        return self.writer.linear(x, projection) if projects and not first else x

    def has(self, module: str) -> bool:
        return f"{module}.weight" in self.writer.weights

    def token_types(self) -> str:
        """Of each token the row of its text's kind (B,S), or of all the first (1,1)."""
        if self.anatomy.reads_token_types:
            return "token_type_ids"
        return self.writer.constant("/token_types", np.zeros((1, 1), np.int64))

    def positions(self) -> str:
        """Of each token the row of its position: (1,S), or (B,S) where padding has its own."""
        offset = position_offset(self.config)
        if offset == 0:
            table = f"{self.anatomy.embeddings['position']}.weight"
            return counted(self.writer, "/positions", self.writer.weights.shapes[table][0])
        padding = self.writer.constant("/positions/padding", np.array(offset - 1))
        axis = self.writer.constant("/positions/axis", np.array(1))
        padded = self.graph.add("Equal", ["input_ids", padding], "/positions/Equal")
        kept = self.graph.add("Not", [padded], "/positions/Not")
        kept = self.graph.add("Cast", [kept], "/positions/Cast", to=TensorProto.INT64)
        numbers = self.graph.add("CumSum", [kept, axis], "/positions/CumSum")
        numbers = self.graph.add("Mul", [numbers, kept], "/positions/Mul")
        return self.graph.add("Add", [numbers, padding], "/positions/Add")

    def layer(self, x: str, block: Block, attend: Attend) -> str:
        """One layer (B,S,W)."""
        attention, part = block.attention, block.feed_forward
        norms = [f"{block.name}.{norm}" for norm in self.function.norms]
        linear, path = self.writer.linear, path_of(block.name)
        query, key, value = (
            linear(x, name) for name in (attention.query, attention.key, attention.value)
        )
        context = attend(block, (query, key, value))
        x = self.residual(linear(context, attention.output), x, f"{path}/attention/Add")
        x = self.norm(x, norms[0])
        activation = self.config[self.function.activation]
        hidden = ACTIVATIONS[activation](self.graph, linear(x, part.up), f"{path}/activation")
        x = self.residual(linear(hidden, part.down), x, f"{path}/feed_forward/Add")
        return self.norm(x, norms[1])

    def residual(self, update: str, x: str, name: str) -> str:
        return self.graph.add(self.sum, [update, x], name)


def counted(writer: Writer, path: str, most: int) -> str:
    """0, 1, 2... for the tokens of a text (1,S); of no more than `most` there are numbers."""
    numbers = writer.constant(f"{path}/numbers", np.arange(most)[None])
    start, axis = writer.constant(f"{path}/start", [0]), writer.constant(f"{path}/axis", [1])
    length = writer.graph.add("Shape", ["input_ids"], f"{path}/length", start=1, end=2)
    return writer.graph.add("Slice", [numbers, start, length, axis], f"{path}/Slice")


def emit_encoder(
    anatomy: Anatomy,
    function: EncoderFunction,
    config: Mapping[str, Any],
    weights: Weights,
    task: Task,
    kept_heads: Sequence[Sequence[int]],
    plain_sums: bool,
) -> Graph:
    """The graph of an encoder, of which `writes_encoder`.

    Args:
        task: decides what it answers: the states of all tokens, or logits of the whole text's
            labels (B,L), or of every token's (B,S,L).
        kept_heads: for every layer which of the original heads are left, in order.
        plain_sums: write the additions that a norm reads as Sum, which the runtime does not fuse.
    """
    typed = ["token_type_ids"] if anatomy.reads_token_types else []
    names = ["input_ids", "attention_mask", *typed]
    layers = _head_of(function, task)
    output, shape = answer_of(anatomy, weights, layers, task.logits_axes)
    writer = Writer(weights, dict.fromkeys(names, (BATCH, TOKENS)), {output: shape})
    encoder = _Encoder(writer, function, anatomy, config, "Sum" if plain_sums else "Add")
    x = encoder.embedded()
    mask = padding_mask(encoder.graph)
    attending = _attending(encoder, mask, kept_heads)
    for block in anatomy.blocks:
        x = encoder.layer(x, block, attending)
    if task.logits_axes == 2:
        x = pooled(writer, x, FIRST)
    if task.head is not None:
        x = logits_of(writer, x, layers, config, anatomy.prefix, encoder.epsilon)
    encoder.graph.replace_uses(output, x)
    return encoder.graph


def _attending(encoder: _Encoder, mask: str, kept_heads: Sequence[Sequence[int]]) -> Attend:
    """The function that writes the attention of a layer."""
    writer, anatomy, bias = encoder.writer, encoder.anatomy, encoder.function.distance_bias
    if distances := read_distances(encoder.config, anatomy.family):
        scores = DistanceScores(writer, distances, anatomy, encoder.epsilon)
        return lambda block, projections: scores.attend(block, projections, mask)
    biases = bias and DistanceBiases(writer, bias, anatomy, mask)

    def plain(block: Block, projections: Projections) -> str:
        attention, heads = block.attention, kept_heads[block.index]
        added = [biases.of(heads) if biases else mask]
        return attend(writer.graph, path_of(attention.module), attention, projections, added)

    return plain
