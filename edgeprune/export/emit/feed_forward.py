"""A layer's feed-forward: one for all tokens, or a mixture of experts.

In a mixture every token is given to a few experts. Its copies are sorted by expert, each expert
gets its own rows as one matrix, and what they answer goes back to the tokens (N tokens, k experts
each, W wide):

    x (N,W) ─> router ─> the k largest of its softmax: experts (N,k), shares (N,k)
    copies (N*k,W), sorted by expert ─> Split ─> expert 0, expert 1, ... ─> joined, in the old order
    shares (N,1,k) x answers (N,k,W) ─> (N,W)

So an expert multiplies the rows that chose it and nothing else, and none of it is a loop; one that
no token chose multiplies a matrix without rows.
"""

import numpy as np
from onnx import TensorProto

from edgeprune.export.emit.activations import ACTIVATIONS
from edgeprune.export.emit.decoder_writer import DecoderWriter
from edgeprune.export.emit.writer import path_of
from edgeprune.model.anatomy import Block, Experts, FeedForward


class FeedForwards:
    """Adds the feed-forwards of a decoder's layers to its graph."""

    def __init__(self, writer: DecoderWriter, activation: str, shared_gate: str | None) -> None:
        """
        Args:
            activation: one of ACTIVATIONS.
            shared_gate: the linear in a layer by which an expert that reads all tokens is scaled.
        """
        self._writer, self._graph = writer, writer.graph
        self._activate, self._shared_gate = ACTIVATIONS[activation], shared_gate

    def add(self, hidden: str, block: Block) -> str:
        """A layer's feed-forward of states (B,S,W)."""
        if block.experts is None:
            return self._one(hidden, block.feed_forward)
        return self._mixture(hidden, block, block.experts)

    def _one(self, hidden: str, part: FeedForward) -> str:
        graph, writer = self._graph, self._writer
        place = path_of(part.up).rpartition("/")[0]
        up = writer.linear(hidden, part.up)
        if part.gate is None:
            inner = self._activate(graph, up, f"{place}/act_fn")
        else:
            gate = writer.linear(hidden, part.gate)
            open_ = self._activate(graph, gate, f"{place}/act_fn")
            inner = graph.add("Mul", [open_, up], f"{place}/Mul")
        return writer.linear(inner, part.down)

    def _mixture(self, hidden: str, block: Block, experts: Experts) -> str:
        graph, writer, place = self._graph, self._writer, path_of(experts.module)
        router = f"{experts.router}.weight"
        width, _ = reversed(writer.weights.shapes[router])
        tokens = graph.add("Reshape", [hidden, writer.integers(-1, width)], f"{place}/Tokens")
        chosen, shares = self._route(tokens, experts)
        answers = self._answers(tokens, chosen, block, experts, width)
        row = graph.add("Unsqueeze", [shares, writer.integers(1)], f"{place}/SharesAsRow")
        summed = graph.add("MatMul", [row, answers], f"{place}/Weighted")
        shape = graph.add("Shape", [hidden], f"{place}/Shape")
        mixed = graph.add("Reshape", [summed, shape], f"{place}/Mixed")
        for shared in block.feed_forwards[experts.count :]:
            answer = self._one(hidden, shared)
            gate = writer.linear(hidden, f"{block.name}.{self._shared_gate}")
            share = graph.add("Sigmoid", [gate], f"{place}/SharedShare")
            answer = graph.add("Mul", [share, answer], f"{place}/Shared")
            mixed = graph.add("Add", [mixed, answer], f"{place}/WithShared")
        return mixed

    def _route(self, tokens: str, experts: Experts) -> tuple[str, str]:
        """Each token's experts (N,k), and their shares of its answer (N,k)."""
        graph, writer, place = self._graph, self._writer, path_of(experts.module)
        logits = writer.linear(tokens, experts.router)
        shares = graph.add("Softmax", [logits], f"{place}/Softmax", axis=-1)
        count = writer.integers(experts.active)
        largest, chosen = f"{place}/TopK_shares", f"{place}/TopK_experts"
        graph.add("TopK", [shares, count], f"{place}/TopK", outputs=[largest, chosen], axis=-1)
        if not experts.normalized:
            return chosen, largest
        total = graph.add("ReduceSum", [largest, writer.integers(1)], f"{place}/Total")
        return chosen, graph.add("Div", [largest, total], f"{place}/Shares")

    def _answers(self, tokens: str, chosen: str, block: Block, experts: Experts, width: int) -> str:
        """The outputs of a token's experts (N,k,W)."""
        graph, writer, place = self._graph, self._writer, path_of(experts.module)
        flat = graph.add("Reshape", [chosen, writer.integers(-1)], f"{place}/Copies")
        copies = graph.add("Shape", [flat], f"{place}/CopyCount")
        order = self._sorted(flat, copies, f"{place}/Order")
        token = graph.add("Div", [order, writer.integer(experts.active)], f"{place}/Token")
        rows = graph.add("Gather", [tokens, token], f"{place}/Sorted", axis=0)
        numbers = graph.add_constant(
            f"/experts/{experts.count}", np.arange(experts.count, dtype=np.int64)
        )
        column = graph.add("Unsqueeze", [flat, writer.integers(1)], f"{place}/Column")
        hits = graph.add("Equal", [column, numbers], f"{place}/Hits")
        hits = graph.add("Cast", [hits], f"{place}/HitsAsNumbers", to=TensorProto.INT64)
        counts = graph.add("ReduceSum", [hits, writer.integers(0)], f"{place}/Counts", keepdims=0)
        parts = [f"{place}/Split_{number}" for number in range(experts.count)]
        graph.add("Split", [rows, counts], f"{place}/Split", outputs=parts, axis=0)
        answered = [
            self._one(part, expert)
            for part, expert in zip(parts, block.feed_forwards[: experts.count], strict=True)
        ]
        joined = graph.add("Concat", answered, f"{place}/Joined", axis=0)
        back = self._sorted(order, copies, f"{place}/Back")
        answers = graph.add("Gather", [joined, back], f"{place}/Answers", axis=0)
        shape = writer.integers(-1, experts.active, width)
        return graph.add("Reshape", [answers, shape], f"{place}/AnswersOfTokens")

    def _sorted(self, keys: str, count: str, name: str) -> str:
        """The places of `count` keys in ascending order; equal ones in the order they stand in."""
        values, places = f"{name}_keys", f"{name}_places"
        self._graph.add("TopK", [keys, count], name, outputs=[values, places], axis=0, largest=0)
        return places
