"""Store embedding tables as INT8 rows: a token's codes are gathered, then scaled.

This takes a quarter of the bytes, and only the rows that a text uses become float32. A table shared
with a decoder's head is stored once, transposed for the head's product; the rows of a text are then
gathered as columns.
"""

import numpy as np
from onnx import NodeProto, TensorProto

from edgeprune.compress.quantize.model import Quantized
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.int8 import tied_codes
from edgeprune.export.rewrite.linears import find_embeddings


def lower_embeddings(graph: Graph, quantized: Quantized) -> int:
    """Replace every planned embedding by its INT8 form; return how many.

    Raises:
        ValueError: a planned embedding is not in the graph, or holds values other than planned.
    """
    planned = [entry.name for entry in quantized.plan if entry.format == "int8-rows"]
    tied = {entry.tied_to for entry in quantized.plan if entry.tied_to}
    found = find_embeddings(graph, planned)
    for name in planned:
        if name not in found:
            raise ValueError(f"the graph has no gather named for {name}")
        gather = found[name]
        _verify(graph, gather, name, quantized)
        path = gather.name.rsplit("/", 1)[0]
        rows = (_gather_columns if name in tied else _gather_rows)(
            graph, gather.input[1], name, path, quantized
        )
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
