"""Lower linears planned for the operator library's quantized products.

    x ─> QuantLinearInt8 or QuantLinearInt4 ─> y

The file contains a function of the same name for each (kernels/function.py), by which a stock
runtime multiplies the same integers. Linears that read the same tensor become one product, whose
columns are then split; a gate and what it opens are among these, gate first. What stands around the
products joins them afterwards (quant_fusions.py).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from edgeprune.compress.quantize.grid import as_multiples
from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import PRODUCTS, QUANT, Entry
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.linears import (
    LinearNodes,
    distribute,
    merged_bias,
    merged_path,
    nodes_path,
    planned_linears,
    store,
)
from edgeprune.kernels.formats import MOST_MULTIPLIER, VNNI, quant_format
from edgeprune.kernels.node import make_quant_linear
from edgeprune.kernels.pack import PackedCodes, pack_codes


def lower_quant_linears(graph: Graph, quantized: Quantized, vnni: bool = False) -> int:
    """Replace every linear planned so with its operator; return how many.

    Args:
        vnni: the target has VNNI, and so the file's functions may need it.

    Raises:
        ValueError: a planned linear is not in the graph, or holds values other than planned.
    """
    products: dict[tuple[object, ...], list[LinearNodes]] = defaultdict(list)
    planned = planned_linears(graph, quantized, tuple(QUANT.values()))
    for entry, linear in planned:
        merged = PRODUCTS.get(entry.role, entry.name)
        products[linear.input, linear.turn, merged, entry.format, entry.group].append(linear)
    for linears in products.values():
        linears.sort(key=lambda linear: quantized.plan[linear.name].role == "up")
        _lower(graph, linears, quantized)
    if planned and vnni:
        graph.metadata[VNNI] = "yes"
    graph.sweep()
    return len(planned)


def _lower(graph: Graph, linears: Sequence[LinearNodes], quantized: Quantized) -> None:
    entries = [quantized.plan[linear.name] for linear in linears]
    stored, path = entries[0].tied_to or merged_path(linears), nodes_path(linears)
    sizes = [entry.shape[0] for entry in entries]
    packed, scales = packed_codes(entries, quantized)
    node, initializers = make_quant_linear(
        stored_at(stored),
        linears[0].product.input[0],
        f"{path}/QuantLinear_output_0",
        packed,
        scales,
        merged_bias(graph, linears, sizes),
    )
    node.name = f"{path}/QuantLinear"
    store(graph, initializers)
    distribute(graph, linears, graph.insert(node), sizes)


def stored_at(path: str) -> str:
    """The beginning of the names of what is stored of a product, by its path; by the embedding's
    name where they share their codes."""
    return f"{path}/QuantLinear"


def packed_codes(entries: Sequence[Entry], quantized: Quantized) -> tuple[PackedCodes, np.ndarray]:
    """The codes of linears side by side, as the operators store them, and a scale (columns,)."""
    names = [entry.name for entry in entries]
    codes = np.concatenate([quantized.codes[name].numpy() for name in names]).T
    if entries[0].group is None:
        scales = np.concatenate([quantized.scales[name].numpy() for name in names])
        return pack_codes(codes, None, quant_format(None).name), scales
    found = [as_multiples(quantized.scales[name], MOST_MULTIPLIER) for name in names]
    multiples = np.concatenate([multiple.numpy() for _, multiple in found]).T
    scales = np.concatenate([one.numpy() for one, _ in found])
    signed = (codes.astype(np.int16) - entries[0].scheme.middle).astype(np.int8)
    form = quant_format(entries[0].group).name
    return pack_codes(signed, np.ascontiguousarray(multiples), form), scales
