"""Lower linears planned with a scale per group of columns to the runtime's MatMulNBits.

    x ─> MatMulNBits (codes of 4 or 8 bits, scales, zero points) ─> Add (bias)

At accuracy level 4 the runtime rounds the activations to INT8 in the same groups and multiplies
integers; at other levels it multiplies floats and is slower than a float32 product for more than
one token. Linears that read the same tensor with the same scheme become one product, whose columns
are then split.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import GROUPED, Entry
from edgeprune.export.graph import CONTRIB, Graph
from edgeprune.export.rewrite.linears import (
    TOGETHER,
    LinearNodes,
    distribute,
    merged_bias,
    merged_path,
    nodes_path,
    planned_linears,
)

OPERATOR = "MatMulNBits"
_ACCURACY = 4


def lower_groups(graph: Graph, quantized: Quantized) -> int:
    """Replace every linear planned in groups with its packed form; return how many.

    Raises:
        ValueError: a planned linear is not in the graph, or holds values other than planned.
    """
    products: dict[tuple[object, ...], list[LinearNodes]] = defaultdict(list)
    planned = planned_linears(graph, quantized, GROUPED)
    for entry, linear in planned:
        merged = "together" if entry.role in TOGETHER else entry.name
        scheme = (entry.bits, entry.group, entry.symmetric)
        products[linear.input, merged, *scheme].append(linear)
    for linears in products.values():
        _lower(graph, linears, quantized)
    graph.sweep()
    return len(planned)


def _lower(graph: Graph, linears: Sequence[LinearNodes], quantized: Quantized) -> None:
    stored, path = merged_path(linears), nodes_path(linears)
    entries = [quantized.plan[linear.name] for linear in linears]
    first = entries[0]
    group = first.group or first.shape[1]
    rows, columns = sum(entry.shape[0] for entry in entries), first.shape[1]
    packed = (rows, -(-columns // group), group * first.bits // 8)
    inputs = [
        linears[0].input,
        graph.add_made(f"{stored}/codes", "uint8", packed, lambda: _codes(entries, quantized)),
        graph.add_constant(f"{stored}/scales", _joined(entries, quantized.scales).reshape(-1)),
    ]
    if not first.symmetric:
        zero_points = pack_bits(_joined(entries, quantized.zero_points), first.bits)
        inputs.append(graph.add_constant(f"{stored}/zero_points", zero_points.reshape(-1)))
    sizes = [entry.shape[0] for entry in entries]
    product = graph.add(
        OPERATOR,
        inputs,
        f"{path}/{OPERATOR}",
        domain=CONTRIB,
        K=first.shape[1],
        N=sum(sizes),
        bits=first.bits,
        block_size=group,
        accuracy_level=_ACCURACY,
    )
    bias = merged_bias(graph, linears, sizes)
    if bias is not None:
        bias_name = graph.add_constant(f"{stored}/bias", bias)
        product = graph.add("Add", [product, bias_name], f"{path}/Add")
    distribute(graph, linears, product, sizes)


def _codes(entries: Sequence[Entry], quantized: Quantized) -> np.ndarray:
    """(rows, groups, bytes of a group), with a row's last group padded by the code of zero."""
    first = entries[0]
    rows, columns = sum(entry.shape[0] for entry in entries), first.shape[1]
    codes = _joined(entries, quantized.codes)
    filled = np.pad(codes, ((0, 0), (0, -columns % (first.group or 1))))
    groups = filled.reshape(rows, -1, first.group or columns)
    short = columns % (first.group or columns)
    if short:
        groups[:, -1, short:] = _joined(entries, quantized.zero_points)[:, -1:]
    return pack_bits(groups, first.bits)


def _joined(entries: Sequence[Entry], values: Mapping[str, Tensor]) -> np.ndarray:
    return np.concatenate([values[entry.name].numpy() for entry in entries])


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack 4-bit codes two to a byte along the last axis, the first one low; leave 8-bit codes.

    An odd number of codes is padded with a zero.
    """
    if bits == 8:
        return codes
    even = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return (even[..., 0::2] | even[..., 1::2] << 4).astype(np.uint8)
