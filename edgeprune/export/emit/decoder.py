"""A decoder's graph from what it is made of: its anatomy, what it computes, and its tensors.

Nothing is traced, and a tensor is read when the graph is written. The form is that which the
rewriting leaves of a trace: attention with its cache as one operator or laid out, logits of the
asked last tokens only; and a table that embedding and head share is stored once. Layers may differ:
every count is read off the shapes.

    ids ─> embedding (+ positions) ─> layer 0 ... layer n ─> norm ─> last tokens ─> head ─> logits
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.export.emit.activations import ACTIVATIONS
from edgeprune.export.emit.causal_attention import CausalAttention, Rotary, can_fuse
from edgeprune.export.emit.decoder_writer import DecoderWriter
from edgeprune.export.emit.feed_forward import FeedForwards
from edgeprune.export.emit.positions import Positions
from edgeprune.export.emit.rotary import rotary_tables, rotary_width
from edgeprune.export.emit.text_head import (
    answer_of,
    give,
    head_of,
    logits_of,
    pooled,
    writes_head,
)
from edgeprune.export.emit.weights import Weights
from edgeprune.export.emit.writer import BATCH, TOKENS, Sizes, path_of
from edgeprune.export.graph import Graph
from edgeprune.model.anatomy import Anatomy, Block
from edgeprune.model.decoder_function import HeadLayers
from edgeprune.model.decoders import Decoder, read_decoder
from edgeprune.model.tasks import Task
from edgeprune.runtime.names import KEPT_LOGITS, PAST, PRESENT, ROW_LENGTHS, SHARED_CACHE

_END = np.iinfo(np.int64).max
# Names of open sizes, as the hub has them.
_PAST = "past_sequence_length"
_TOTAL = f"{_PAST} + {TOKENS}"


def emit_decoder(
    anatomy: Anatomy, config: Mapping[str, Any], weights: Weights, task: Task, plain_sums: bool
) -> Graph | None:
    """The graph of a decoder in float32; None where what it computes is not written down. One that
    keeps no cache answers with the states of all tokens or with logits of labels.

    Args:
        config: the contents of config.json, in the words of transformers 4.
        weights: the tensors that the anatomy describes.
        task: what it answers.
        plain_sums: write the additions that a norm reads as Sum, which the runtime does not fuse.
    """
    decoder = read_decoder(config, anatomy)
    if decoder is None or decoder.activation not in ACTIVATIONS:
        return None
    logits = head_of(decoder, task)
    if not decoder.has_cache and not writes_head(logits, config, decoder.label_pooling, task):
        return None
    head = None if decoder.has_cache else _Head(logits, config, task)
    writer = _begun(anatomy, decoder, weights, head, plain_sums)
    rotary = _rotary(writer, config, anatomy, decoder)
    if rotary is None:
        return None
    fused = decoder.has_cache and can_fuse(anatomy, rotary)
    if fused:
        writer.graph.metadata |= {SHARED_CACHE: "yes", ROW_LENGTHS: "yes"}
    positions = Positions(
        writer, decoder.takes_positions and decoder.has_cache, decoder.bidirectional
    )
    experts = anatomy.family.experts
    layers = _Layers(
        writer,
        decoder,
        anatomy.hidden_size,
        CausalAttention(writer, positions, decoder, rotary, fused),
        FeedForwards(writer, decoder.activation, experts.shared_gate if experts else None),
    )
    hidden = _embedded(writer, positions, anatomy, decoder)
    writer.graph.stations = [hidden]
    for block in anatomy.blocks:
        hidden = layers.add(hidden, block)
        writer.graph.stations.append(hidden)
    _add_answer(writer, anatomy, decoder, head, hidden)
    return writer.graph


@dataclass(frozen=True)
class _Head:
    """The head of layers that keep no cache."""

    layers: HeadLayers
    config: Mapping[str, Any]
    task: Task


def _rotary(
    writer: DecoderWriter, config: Mapping[str, Any], anatomy: Anatomy, decoder: Decoder
) -> tuple[Rotary, ...] | None:
    """Each layer's rotary positions, none where a model has none; None for an unknown kind."""
    names = anatomy.family.rotary
    if not names:
        return ()
    own = "window_theta" in names
    made: dict[bool, Rotary] = {}
    for windowed in {own and window is not None for window in decoder.windows}:
        tables = rotary_tables(config, anatomy, windowed)
        if tables is None:
            return None
        path = "/rotary/window" if windowed else "/rotary"
        cosines, sines = (
            writer.constant(f"{path}/{name}", table)
            for name, table in zip(("cosines", "sines"), tables, strict=True)
        )
        made[windowed] = Rotary(cosines, sines, rotary_width(config, anatomy))
    return tuple(made[own and window is not None] for window in decoder.windows)


def _begun(
    anatomy: Anatomy, decoder: Decoder, weights: Weights, head: _Head | None, plain_sums: bool
) -> DecoderWriter:
    """A graph of inputs and outputs, named as the hub's."""

    def caches(prefix: str, length: str) -> dict[str, Sizes]:
        return {
            f"{prefix}{block.index}.{part}": (
                BATCH,
                block.attention.num_key_value_heads,
                length,
                block.attention.head_dim,
            )
            for block in anatomy.blocks
            for part in ("key", "value")
        }

    if head is not None:
        texts = dict.fromkeys(("input_ids", "attention_mask"), (BATCH, TOKENS))
        answer = answer_of(anatomy, head.layers, head.task)
        return DecoderWriter(weights, texts, {}, answer, plain_sums)
    assert anatomy.head is not None
    inputs: dict[str, Sizes] = {"input_ids": (BATCH, TOKENS), "attention_mask": (BATCH, _TOTAL)}
    if decoder.takes_positions:
        inputs["position_ids"] = (BATCH, TOKENS)
    logits = {"logits": (BATCH, TOKENS, anatomy.shape(anatomy.head)[0])}
    return DecoderWriter(
        weights, inputs, caches(PAST, _PAST), logits | caches(PRESENT, _TOTAL), plain_sums
    )


class _Layers:
    """Adds layers to a graph: norms, attention, feed-forward and the sums between them."""

    def __init__(
        self,
        writer: DecoderWriter,
        decoder: Decoder,
        width: int,
        attention: CausalAttention,
        feed_forward: FeedForwards,
    ) -> None:
        self._writer, self._decoder, self._width = writer, decoder, width
        self._attention, self._feed_forward = attention, feed_forward

    def add(self, hidden: str, block: Block) -> str:
        """A layer's answer to states (B,S,W)."""
        decoder, place = self._decoder, path_of(block.name)
        first, second = (
            norms[block.index] if norms else None
            for norms in (decoder.attention_norms, decoder.feed_forward_norms)
        )
        after = decoder.answer_norms[block.index] if decoder.answer_norms else (None, None)
        if decoder.parallel:
            normed = self._norm(hidden, first)
            attended = self._attention.add(normed, block)
            normed = normed if second == first else self._norm(hidden, second)
            fed = self._feed_forward.add(normed, block)
            both = self._writer.graph.add("Add", [fed, attended], f"{place}/Add")
            both = self._scaled(both, f"{place}/Add")
            return self._writer.sum(both, hidden, f"{place}/Add_1")
        for norm, part, last, name in (
            (first, self._attention, after[0], f"{place}/Add"),
            (second, self._feed_forward, after[1], f"{place}/Add_1"),
        ):
            if decoder.norms_first:
                answer = self._norm(part.add(self._norm(hidden, norm), block), last)
                answer = self._scaled(answer, name)
                hidden = self._writer.sum(hidden, answer, name)
            else:
                answer = self._scaled(part.add(hidden, block), name)
                hidden = self._norm(self._writer.sum(hidden, answer, name), norm)
        return hidden

    def _scaled(self, answer: str, name: str) -> str:
        return self._writer.scaled(answer, self._decoder.sum_factor, f"{name}/Scaled")

    def _norm(self, hidden: str, name: str | None) -> str:
        """Normed states; as they are where there is no norm."""
        if name is None:
            return hidden
        return self._writer.normed(hidden, name, self._decoder.norms, self._width)


def _embedded(
    writer: DecoderWriter, positions: Positions, anatomy: Anatomy, decoder: Decoder
) -> str:
    """The states (B,S,W) that enter the first layer."""
    graph, tables = writer.graph, anatomy.embeddings
    hidden = writer.rows(tables["word"], "input_ids")
    base = path_of(tables["word"]).rpartition("/")[0]
    hidden = writer.scaled(hidden, decoder.embedding_scale, f"{base}/Mul")
    if decoder.project_in is not None:
        hidden = writer.linear(hidden, decoder.project_in)
    if "position" in tables:
        places = positions.ids()
        if offset := anatomy.family.position_rows:
            name = f"{path_of(tables['position'])}/Add"
            places = graph.add("Add", [places, writer.integer(offset)], name)
        # The sum that the first layer's norm reads.
        hidden = writer.sum(hidden, writer.rows(tables["position"], places), f"{base}/Add")
    if decoder.embedding_norm is not None:
        hidden = writer.normed(hidden, decoder.embedding_norm, decoder.norms, anatomy.hidden_size)
    return hidden


def _add_answer(
    writer: DecoderWriter, anatomy: Anatomy, decoder: Decoder, head: _Head | None, hidden: str
) -> None:
    """The states of all tokens, or what the head makes of them."""
    if decoder.final_norm is not None:
        hidden = writer.normed(hidden, decoder.final_norm, decoder.norms, anatomy.hidden_size)
    if decoder.project_out is not None:
        hidden = writer.linear(hidden, decoder.project_out)
    if head is None:
        writer.graph.replace_uses("logits", _logits(writer, anatomy, decoder, hidden))
        return
    if head.task.logits_axes == 2:
        hidden = pooled(writer, hidden, decoder.label_pooling)
    if head.task.head is not None:
        epsilon = decoder.norms.epsilon
        hidden = logits_of(writer, hidden, head.layers, head.config, anatomy, epsilon)
    give(writer.graph, hidden, head.task)


def _logits(writer: DecoderWriter, anatomy: Anatomy, decoder: Decoder, hidden: str) -> str:
    """Those of the last tokens, as many as num_logits_to_keep says; 0, its default, is all."""
    graph = writer.graph
    kept, place = graph.add_option(KEPT_LOGITS, np.array(0, np.int64)), "/last_logits"
    negative = graph.add("Neg", [kept], f"{place}/Neg")
    start = graph.add("Unsqueeze", [negative, writer.integers(0)], f"{place}/Unsqueeze")
    inputs = [hidden, start, writer.integers(_END), writer.integers(1)]
    last = graph.add("Slice", inputs, f"{place}/Slice")
    if decoder.logit_divisor is not None:
        last = writer.scaled(last, 1 / decoder.logit_divisor, f"{place}/Scaled")
    assert anatomy.head is not None
    if anatomy.tied_embeddings:
        logits = writer.tied(last, anatomy.head, anatomy.embeddings["word"])
    else:
        logits = writer.linear(last, anatomy.head)
    return writer.bounded(logits, decoder.logits_cap, "/logits")
