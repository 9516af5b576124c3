"""DeBERTa's attention (edgeprune.model.distances), whose scores know the distance of two tokens.

Keys and queries of distances follow from the weights alone, so that the graph holds them, a row for
each row of the table (R of them, of heads H with D values). A text of S tokens has 2S - 1 distances
d; a query's products with the keys of all are one matrix, of which each row holds its own text's
distances in order, from another place on:

    q (B,H,S,D) x keys of d = S-1 ... -S (H,D,2S) ─> (B,H,S,2S) ─> shifted (B,H,S,S) ───────┐
    k (B,H,S,D) x queries of d = -S+1 ... S (H,D,2S) ─> (B,H,S,2S) ─> shifted, turned ──────┤
    q x k ──────────────────────────────────────────────────────────────────────────────────+

Row i begins with its place S - 1 - i. In one row of 2S * S numbers that is S - 1 + i * (2S - 1): so
without its first S - 1 numbers and its last, and with rows of 2S - 1, the wanted ones are in line.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeprune.export.attention_nodes import join_heads, split_heads
from edgeprune.export.emit.writer import Writer, path_of
from edgeprune.model.anatomy import Anatomy, Attention, Block
from edgeprune.model.distances import Distances

_PATH = "/distances"


class DistanceScores:
    """Adds attentions that know distances to one graph."""

    def __init__(
        self, writer: Writer, distances: Distances, anatomy: Anatomy, epsilon: float
    ) -> None:
        """`epsilon`: that of the norm of the table's rows."""
        self._writer, self._graph, self._distances = writer, writer.graph, distances
        self._prefix, self._epsilon = anatomy.prefix, epsilon
        most = anatomy.max_positions
        graph, constant = writer.graph, writer.constant
        self._first = constant(f"{_PATH}/first", [0])
        self._last_axis = constant(f"{_PATH}/last_axis", [3])
        self._length = graph.add("Shape", ["input_ids"], f"{_PATH}/length", start=1, end=2)
        one = constant(f"{_PATH}/one", [1])
        self._shift = graph.add("Sub", [self._length, one], f"{_PATH}/shift")
        whole = constant(f"{_PATH}/whole", [0, 0]), constant(f"{_PATH}/rest", [-1])
        sizes = [whole[0], self._length, whole[1]]
        self._in_rows = graph.add("Concat", sizes, f"{_PATH}/in_rows", axis=0)
        self._in_line = constant(f"{_PATH}/in_line", [0, 0, -1])
        middle = constant(f"{_PATH}/middle", [most])
        ends = [
            graph.add(operator, [middle, self._length], f"{_PATH}/{name}")
            for operator, name in (("Sub", "start"), ("Add", "end"))
        ]
        upwards = np.arange(2 * most) - (most - 1)
        self._rows = {}
        for name, numbers in (("down", -upwards), ("up", upwards)):
            table = constant(f"{_PATH}/{name}/all", distances.rows(numbers))
            taken = [table, *ends, self._first]
            self._rows[name] = graph.add("Slice", taken, f"{_PATH}/{name}")

    def attend(self, block: Block, projections: tuple[str, str, str], mask: str) -> str:
        """Write the attention of a layer; return its result, which the output projection reads.

        Args:
            projections: query, key and value, each (B,S,H*D).
            mask: what is added to the scores (B,1,1,S).
        """
        graph, attention = self._graph, block.attention
        path, perm = path_of(attention.module), [0, 2, 1, 3]
        query, key, value = (
            split_heads(graph, path, attention.head_dim, tensor, role, perm)
            for tensor, role in zip(projections, ("query", "key", "value"), strict=True)
        )
        columns = graph.add("Transpose", [key], f"{path}/key/Columns", perm=[0, 1, 3, 2])
        scores = graph.add("MatMul", [query, columns], f"{path}/Scores")
        distances = self._distances
        if distances.key is not None:
            added = self._shifted(block, distances.key, query, "down", f"{path}/c2p")
            scores = graph.add("Add", [scores, added], f"{path}/WithKeys")
        if distances.query is not None:
            added = self._shifted(block, distances.query, key, "up", f"{path}/p2c")
            added = graph.add("Transpose", [added], f"{path}/p2c/Turned", perm=[0, 1, 3, 2])
            scores = graph.add("Add", [scores, added], f"{path}/WithQueries")
        scale = 1 / math.sqrt(attention.head_dim * distances.products)
        scale_name = self._writer.constant(f"{path}/scale", np.array(scale, np.float32))
        scores = graph.add("Mul", [scores, scale_name], f"{path}/Scaled")
        scores = graph.add("Add", [scores, mask], f"{path}/Masked")
        weights = graph.add("Softmax", [scores], f"{path}/Weights", axis=-1)
        context = graph.add("MatMul", [weights, value], f"{path}/Context")
        return join_heads(graph, path, attention, context)

    def _shifted(self, block: Block, linear: str, x: str, order: str, path: str) -> str:
        """Products of x (B,H,S,D) with what a linear makes of distances, each token's in the order
        of the others (B,H,S,S)."""
        graph = self._graph
        table = self._made(block, linear, f"{path}/all")
        chosen = graph.add("Gather", [table, self._rows[order]], f"{path}/Gather", axis=1)
        columns = graph.add("Transpose", [chosen], f"{path}/Columns", perm=[0, 2, 1])
        products = graph.add("MatMul", [x, columns], f"{path}/Products")
        line = graph.add("Reshape", [products, self._in_line], f"{path}/InLine")
        axis = self._writer.constant(f"{_PATH}/axis", [2])
        end = self._writer.constant(f"{_PATH}/without_last", [-1])
        line = graph.add("Slice", [line, self._shift, end, axis], f"{path}/Shifted")
        rows = graph.add("Reshape", [line, self._in_rows], f"{path}/InRows")
        taken: Sequence[str] = [rows, self._first, self._length, self._last_axis]
        return graph.add("Slice", taken, path)

    def _made(self, block: Block, linear: str, name: str) -> str:
        """Keys or queries of distances, as a layer's linear makes them of the table (H,R,D)."""
        attention, rows = block.attention, 2 * self._distances.span

        def read() -> ir.Tensor:
            return ir.Tensor(self._values(attention, f"{block.name}.{linear}"), name=name)

        shape = ir.Shape([attention.num_heads, rows, attention.head_dim])
        self._graph.add_tensor(name, ir.LazyTensor(read, ir.DataType.FLOAT, shape, name=name))
        return name

    def _values(self, attention: Attention, linear: str) -> np.ndarray:
        weights, bias = self._writer.weights, f"{linear}.bias"
        made = self._table() @ weights.read(f"{linear}.weight").astype(np.float64).T
        if bias in weights:
            made = made + weights.read(bias)
        heads = made.reshape(len(made), attention.num_heads, attention.head_dim)
        return np.ascontiguousarray(heads.transpose(1, 0, 2), dtype=np.float32)

    def _table(self) -> np.ndarray:
        """The rows of distances as linears read them (R,W), in float64."""
        distances, read = self._distances, self._writer.weights.read
        rows = read(f"{self._prefix}{distances.table}.weight").astype(np.float64)
        rows = rows[: 2 * distances.span]
        if distances.norm is None:
            return rows
        norm = f"{self._prefix}{distances.norm}"
        rows = rows - rows.mean(-1, keepdims=True)
        rows = rows / np.sqrt(np.square(rows).mean(-1, keepdims=True) + self._epsilon)
        made: np.ndarray = rows * read(f"{norm}.weight") + read(f"{norm}.bias")
        return made
