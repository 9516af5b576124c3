"""A decoder's graph from what it is made of: its anatomy, what it computes, and its tensors.

Nothing is traced and no weight is read here; a tensor is read when the graph is written. The graph is
the one that the passes of rewriting would make of a trace: attention with its cache as one operator or
laid out, only the asked last tokens' logits, a table that embedding and head share stored once. Layers
may differ in heads and channels; every count is read off the tensors' shapes.

    input_ids ─> embedding (+ positions) ─> layer 0 ... layer n ─> norm ─> last tokens ─> head ─> logits
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeprune.export.emit.causal_attention import CausalAttention, Rotary, can_fuse
from edgeprune.export.emit.feed_forward import FeedForwards
from edgeprune.export.emit.modules import ACTIVATIONS, Modules, path
from edgeprune.export.emit.positions import Positions
from edgeprune.export.emit.rotary import rotary_tables, rotary_width
from edgeprune.export.emit.weights import Weights
from edgeprune.export.graph import CONTRIB, Graph
from edgeprune.model.anatomy import Anatomy, Block
from edgeprune.model.decoders import Decoder, read_decoder
from edgeprune.runtime.cache import KEPT_LOGITS, SHARED_CACHE
from edgeprune.runtime.session import PAST, PRESENT

_OPSET, _IR_VERSION = 17, 8
_END = np.iinfo(np.int64).max
# Names of open sizes, as the hub has them.
_BATCH, _TOKENS, _PAST = "batch_size", "sequence_length", "past_sequence_length"
_TOTAL = f"{_PAST} + {_TOKENS}"


def emit_decoder(config: Mapping[str, Any], anatomy: Anatomy, weights: Weights) -> Graph | None:
    """The graph of a decoder in float32; None where what it computes is not written down.

    Args:
        config: the contents of config.json, in the words of transformers 4.
        weights: the tensors that the anatomy describes.
    """
    decoder = read_decoder(config, anatomy)
    if decoder is None or decoder.activation not in ACTIVATIONS:
        return None
    family = anatomy.family
    tables = None
    if family.rotary:
        head_dim = anatomy.blocks[0].attention.head_dim
        tables = rotary_tables(config, family, head_dim)
        if tables is None:
            return None
    graph = _empty(anatomy, decoder)
    modules = Modules(graph, weights)
    rotary = None
    if tables is not None:
        names = [
            graph.add_constant(f"/rotary/{name}", table)
            for name, table in zip(("cosines", "sines"), tables, strict=True)
        ]
        rotary = Rotary(*names, rotary_width(config, family, head_dim))
    fused = can_fuse(anatomy, rotary)
    if fused:
        graph.metadata[SHARED_CACHE] = "yes"
    positions = Positions(modules, decoder.takes_positions)
    layers = _Layers(
        modules,
        decoder,
        anatomy.hidden_size,
        CausalAttention(modules, positions, decoder, rotary, fused),
        FeedForwards(modules, decoder.activation, family.experts and family.experts.shared_gate),
    )
    hidden = _embedded(modules, positions, anatomy, decoder)
    for block in anatomy.blocks:
        hidden = layers.add(hidden, block)
    _add_head(modules, anatomy, decoder, hidden)
    graph.sweep()
    return graph


def _empty(anatomy: Anatomy, decoder: Decoder) -> Graph:
    """A graph of inputs and outputs, named as the hub's."""

    def tokens(name: str, size: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT64, [_BATCH, size])

    def caches(prefix: str, size: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                f"{prefix}{block.index}.{part}",
                TensorProto.FLOAT,
                [_BATCH, block.attention.num_key_value_heads, size, block.attention.head_dim],
            )
            for block in anatomy.blocks
            for part in ("key", "value")
        ]

    assert anatomy.head is not None
    inputs = [tokens("input_ids", _TOKENS), tokens("attention_mask", _TOTAL)]
    inputs += [tokens("position_ids", _TOKENS)] if decoder.takes_positions else []
    vocabulary = anatomy.shape(anatomy.head)[0]
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, [_BATCH, _TOKENS, vocabulary]
    )
    graph = helper.make_graph(
        [], "main_graph", [*inputs, *caches(PAST, _PAST)], [logits, *caches(PRESENT, _TOTAL)]
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]
    return Graph(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION))


class _Layers:
    """Adds layers to a graph: norms, attention, feed-forward and the sums between them."""

    def __init__(
        self,
        modules: Modules,
        decoder: Decoder,
        width: int,
        attention: CausalAttention,
        feed_forward: FeedForwards,
    ) -> None:
        self._modules, self._decoder, self._width = modules, decoder, width
        self._attention, self._feed_forward = attention, feed_forward

    def add(self, hidden: str, block: Block) -> str:
        """A layer's answer to states (B,S,W)."""
        decoder, place = self._decoder, path(block.name)
        first, second = (
            norms[block.index] for norms in (decoder.attention_norms, decoder.feed_forward_norms)
        )
        if decoder.parallel:
            normed = self._norm(hidden, first)
            attended = self._attention.add(normed, block)
            normed = normed if second == first else self._norm(hidden, second)
            fed = self._feed_forward.add(normed, block)
            both = self._sum(fed, attended, f"{place}/Add")
            return self._sum(both, hidden, f"{place}/Add_1")
        for norm, part, name in (
            (first, self._attention, f"{place}/Add"),
            (second, self._feed_forward, f"{place}/Add_1"),
        ):
            if decoder.norms_first:
                hidden = self._sum(hidden, part.add(self._norm(hidden, norm), block), name)
            else:
                hidden = self._norm(self._sum(hidden, part.add(hidden, block), name), norm)
        return hidden

    def _sum(self, left: str, right: str, name: str) -> str:
        return self._modules.graph.add("Add", [left, right], name)

    def _norm(self, hidden: str, name: str) -> str:
        return self._modules.norm(hidden, name, self._decoder.norms, self._width)


def _embedded(modules: Modules, positions: Positions, anatomy: Anatomy, decoder: Decoder) -> str:
    """The states (B,S,W) that enter the first layer."""
    graph, tables = modules.graph, anatomy.embeddings
    hidden = modules.embedding("input_ids", tables["word"])
    base = path(tables["word"]).rpartition("/")[0]
    if decoder.embedding_scale is not None:
        hidden = graph.add("Mul", [hidden, modules.number(decoder.embedding_scale)], f"{base}/Mul")
    if decoder.project_in is not None:
        hidden = modules.linear(hidden, decoder.project_in)
    if "position" in tables:
        places = positions.ids()
        if offset := anatomy.family.position_rows:
            name = f"{path(tables['position'])}/Add"
            places = graph.add("Add", [places, modules.integer(offset)], name)
        hidden = graph.add(
            "Add", [hidden, modules.embedding(places, tables["position"])], f"{base}/Add"
        )
    return hidden


def _add_head(modules: Modules, anatomy: Anatomy, decoder: Decoder, hidden: str) -> None:
    """The logits of the last tokens, as many as num_logits_to_keep says; 0, its default, is all."""
    graph = modules.graph
    if decoder.final_norm is not None:
        hidden = modules.norm(hidden, decoder.final_norm, decoder.norms, anatomy.hidden_size)
    if decoder.project_out is not None:
        hidden = modules.linear(hidden, decoder.project_out)
    kept, place = graph.add_option(KEPT_LOGITS, np.array(0, np.int64)), "/last_logits"
    negative = graph.add("Neg", [kept], f"{place}/Neg")
    start = graph.add("Unsqueeze", [negative, modules.integers(0)], f"{place}/Unsqueeze")
    inputs = [hidden, start, modules.integers(_END), modules.integers(1)]
    last = graph.add("Slice", inputs, f"{place}/Slice")
    assert anatomy.head is not None
    if anatomy.tied_embeddings:
        logits = modules.tied(last, anatomy.head, anatomy.embeddings["word"])
    else:
        logits = modules.linear(last, anatomy.head)
    graph.producers[logits].output[0] = "logits"
    graph.index()
