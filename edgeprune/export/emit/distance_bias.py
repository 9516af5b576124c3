"""The bias of attention scores by the distance of two tokens, as a table of a row each distance.

    tokens (1,S) - tokens (S,1) ─> rows of the table (S,S,H) ─> (H,S,S) ─> + mask (B,1,1,S)

The buckets of all distances are computed here, so that a call only looks them up, and only once
for all layers that have the same heads.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeprune.export.emit.writer import Writer
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.encoder_function import DistanceBias

_PATH = "/distance_bias"


def buckets(distances: np.ndarray, bias: DistanceBias) -> np.ndarray:
    """The row of the bias's table for distances, which are positive for tokens after."""
    half = bias.buckets // 2
    exact = half // 2
    away = np.abs(distances)
    # In float32, as torch does it: a bucket ends where that rounds.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
    share = ratio / np.float32(math.log(bias.furthest / exact)) * np.float32(half - exact)
    far = np.minimum(exact + share.astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(away < exact, away, far)


class DistanceBiases:
    """The biases of one graph, with its mask added, by the heads that a layer has left."""

    def __init__(self, writer: Writer, bias: DistanceBias, anatomy: Anatomy, mask: str) -> None:
        self._writer, self._mask = writer, mask
        self._made: dict[tuple[int, ...], str] = {}
        table = f"{anatomy.prefix}{bias.table}.weight"
        self._heads = writer.weights.shapes[table][1]
        last = anatomy.max_positions - 1
        numbers = np.arange(-last, last + 1)
        rows = ir.LazyTensor(
            lambda: ir.Tensor(writer.weights.read(table)[buckets(numbers, bias)]),
            ir.DataType.FLOAT,
            ir.Shape([len(numbers), self._heads]),
            name=f"{_PATH}/rows",
        )
        graph = writer.graph
        graph.add_tensor(f"{_PATH}/rows", rows)
        tokens = np.arange(last + 1)
        start = writer.constant(f"{_PATH}/start", [0])
        length = graph.add("Shape", ["input_ids"], f"{_PATH}/length", start=1, end=2)
        ends = []
        for axis, (name, values) in enumerate((("from", tokens - last), ("to", tokens))):
            numbers_of = writer.constant(f"{_PATH}/{name}", np.expand_dims(values, 1 - axis))
            over = writer.constant(f"{_PATH}/{name}/axis", [axis])
            ends.append(
                graph.add("Slice", [numbers_of, start, length, over], f"{_PATH}/{name}/Slice")
            )
        places = graph.add("Sub", ends[::-1], f"{_PATH}/places")
        chosen = graph.add("Gather", [f"{_PATH}/rows", places], f"{_PATH}/Gather")
        self._whole = graph.add("Transpose", [chosen], f"{_PATH}/HeadsFirst", perm=[2, 0, 1])

    def of(self, heads: Sequence[int]) -> str:
        """The bias (B,H,S,S) on the scores of a layer with these of the original heads."""
        kept = tuple(heads)
        if kept not in self._made:
            graph, path, bias = self._writer.graph, f"{_PATH}/{len(self._made)}", self._whole
            if kept != tuple(range(self._heads)):
                numbers = self._writer.constant(f"{path}/heads", list(kept))
                bias = graph.add("Gather", [bias, numbers], f"{path}/Gather", axis=0)
            self._made[kept] = graph.add("Add", [bias, self._mask], f"{path}/Add")
        return self._made[kept]
