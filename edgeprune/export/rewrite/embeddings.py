"""Store embedding tables as INT8 rows: a token's codes are gathered, then scaled.

This takes a quarter of the bytes, and only the rows that a text uses become float32. A table shared
with a decoder's head is stored once, as the head's product reads it: transposed, and the rows of a
text are then gathered as columns; or in the strips of the operator library (kernels/pack.py), of
which the strip with a token's column is gathered, then the column's bytes of each vector.
"""

import numpy as np
from onnx import NodeProto, TensorProto

from edgeprune.compress.quantize.model import Quantized
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.int8 import tied_codes
from edgeprune.export.rewrite.linears import find_embeddings
from edgeprune.export.rewrite.quant_linears import packed_codes, stored_at
from edgeprune.kernels.formats import quant_format
from edgeprune.kernels.pack import BLOCK, STRIP, UNIT


def lower_embeddings(graph: Graph, quantized: Quantized) -> int:
    """Replace every planned embedding by its INT8 form; return how many.

    Raises:
        ValueError: a planned embedding is not in the graph, or holds values other than planned.
    """
    planned = [entry.name for entry in quantized.plan if entry.format == "int8-rows"]
    heads = {entry.tied_to: entry for entry in quantized.plan if entry.tied_to}
    found = find_embeddings(graph, planned)
    for name in planned:
        if name not in found:
            raise ValueError(f"the graph has no gather named for {name}")
        gather = found[name]
        _verify(graph, gather, name, quantized)
        path = gather.name.rsplit("/", 1)[0]
        gathered = _gather_rows
        if name in heads:
            packed = heads[name].format == "quant-int8"
            gathered = _gather_from_strips if packed else _gather_columns
        rows = gathered(graph, gather.input[1], name, path, quantized)
        floats = graph.add("Cast", [rows], f"{path}/Cast", to=TensorProto.FLOAT)
        scales = graph.add_constant(f"{name}.scales", quantized.scales[name].numpy()[:, None])
        scale = graph.add("Gather", [scales, gather.input[1]], f"{path}/Scales", axis=0)
        graph.replace_uses(gather.output[0], graph.add("Mul", [floats, scale], f"{path}/Scaled"))
    graph.sweep()
    return len(planned)


def _verify(graph: Graph, gather: NodeProto, name: str, quantized: Quantized) -> None:
    table = graph.constant(gather.input[0])
    codes, scales = quantized.codes[name].numpy(), quantized.scales[name].numpy()
    if table is None or not np.array_equal(table, codes.astype(np.float32) * scales[:, None]):
        raise ValueError(f"the exported table of {name} is not what was planned")


def _gather_rows(graph: Graph, tokens: str, name: str, path: str, quantized: Quantized) -> str:
    shape = quantized.plan[name].shape
    codes = graph.add_made(f"{name}.codes", "int8", shape, lambda: quantized.codes[name].numpy())
    return graph.add("Gather", [codes, tokens], f"{path}/Codes", axis=0)


def _gather_columns(graph: Graph, tokens: str, name: str, path: str, quantized: Quantized) -> str:
    codes = tied_codes(graph, name, quantized)
    columns = graph.add("Gather", [codes, tokens], f"{path}/Codes", axis=1)
    return graph.add("Transpose", [columns], f"{path}/Turned", perm=[1, 2, 0])


def _gather_from_strips(
    graph: Graph, tokens: str, name: str, path: str, quantized: Quantized
) -> str:
    entry = quantized.plan[name]
    width = entry.shape[1]

    def packed() -> np.ndarray:
        return packed_codes([entry], quantized)[0].codes

    vectors = BLOCK * -(-width // BLOCK) // UNIT
    shape = (-(-entry.shape[0] // STRIP), vectors, STRIP * UNIT)
    codes = graph.add_made(f"{stored_at(name)}/codes", "uint8", shape, packed)
    size = graph.add_constant(f"{path}/strip", np.array(STRIP, np.int64))
    strip = graph.add("Div", [tokens, size], f"{path}/Strip")
    column = graph.add("Mod", [tokens, size], f"{path}/Column")
    columns, inputs = np.arange(STRIP)[:, None, None], np.arange(UNIT)
    places = np.broadcast_to(UNIT * columns + inputs, (STRIP, vectors, UNIT)).astype(np.int64)
    table = graph.add_constant(f"{path}/places", places)
    strips = graph.add("Gather", [codes, strip], f"{path}/Codes", axis=0)
    bytes_of_column = graph.add("Gather", [table, column], f"{path}/Places", axis=0)
    rows = graph.add("GatherElements", [strips, bytes_of_column], f"{path}/Rows", axis=-1)
    line = graph.add_constant(f"{path}/line", np.array([0, 0, -1], np.int64))
    rows = graph.add("Reshape", [rows, line], f"{path}/Row")
    if width % BLOCK:
        ends = [
            graph.add_constant(f"{path}/{part}", np.array([value], np.int64))
            for part, value in (("first", 0), ("width", width), ("last_axis", -1))
        ]
        rows = graph.add("Slice", [rows, *ends], f"{path}/Whole")
    middle = graph.add_constant(f"{path}/middle", np.array(-quant_format(None).lowest, np.int32))
    whole = graph.add("Cast", [rows], f"{path}/Stored", to=TensorProto.INT32)
    return graph.add("Sub", [whole, middle], f"{path}/Signed")
