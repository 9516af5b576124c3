"""Lower planned sparse linears, with the nodes after them, to operators of edgeprune.kernels.

    x ─> SparseLinearInt8Gelu ─> y              up and its activation
    x ─> SparseLinearInt8Add  <─ residual       output and down with the addition after them
    x ─> SparseLinearInt8SiluMul <─ up          a decoder's gate

The file contains a function of the same name for each (kernels/node.py), which begins and ends with
the operators that int8.py and residual.py write, so that a stock runtime gets the dense INT8 graph.

As there, q, k and v become one product if their blocks allow it, and linears that read the same
tensor share its quantization.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import SPARSE, Entry
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.activation import find_activation
from edgeprune.export.rewrite.int8 import quantize_tensor, quantize_tokens
from edgeprune.export.rewrite.linears import (
    TOGETHER,
    LinearNodes,
    distribute,
    merged_bias,
    merged_path,
    nodes_path,
    planned_linears,
    store,
)
from edgeprune.kernels.formats import FORMATS
from edgeprune.kernels.node import Quantized as QuantizedTensor
from edgeprune.kernels.node import make_sparse_linear
from edgeprune.kernels.pack import pack


@dataclass(frozen=True)
class _Ending:
    """An operator's epilogue, the second tensor that it reads, and its output."""

    epilogue: str
    output: str
    other: str | None = None


def lower_sparse_linears(graph: Graph, quantized: Quantized) -> int:
    """Replace every linear planned sparse with its operator; return how many.

    Raises:
        ValueError: a planned linear is not in the graph, or holds values other than planned.
    """
    groups: dict[tuple[str, str, str], list[LinearNodes]] = defaultdict(list)
    planned = planned_linears(graph, quantized, SPARSE)
    for entry, linear in planned:
        merged = "together" if _can_merge(entry) else entry.name
        groups[linear.input, entry.format, merged].append(linear)
    readers = Counter(tensor for tensor, _, _ in groups)
    for (tensor, _, _), linears in groups.items():
        entry = quantized.plan[linears[0].name]
        _lower(graph, linears, entry, quantized, shared=readers[tensor] > 1)
    graph.sweep()
    return len(planned)


def _can_merge(entry: Entry) -> bool:
    """Whether another linear's columns may follow: its blocks must stay aligned."""
    outputs = FORMATS[SPARSE[entry.format]].outputs
    return entry.role in TOGETHER and entry.shape[0] % outputs == 0


def _lower(
    graph: Graph, linears: list[LinearNodes], entry: Entry, quantized: Quantized, shared: bool
) -> None:
    first, form = linears[0], FORMATS[SPARSE[entry.format]]
    stored, path = merged_path(linears), nodes_path(linears)
    sizes = [len(quantized.scales[linear.name]) for linear in linears]
    ending = _Ending("none", first.output)
    if len(linears) == 1:
        ending = _ending(graph, entry.role, first.output)
    codes = np.concatenate([quantized.codes[linear.name].numpy().T for linear in linears], axis=1)
    scales = np.concatenate([quantized.scales[linear.name].numpy() for linear in linears])
    node, initializers = make_sparse_linear(
        f"{stored}/SparseLinear",
        # Look it up again: the node may have become part of an earlier operator.
        _activations(graph, first.product.input[0], entry, path, shared),
        f"{path}/SparseLinear_output_0",
        pack(codes, form.name),
        scales=scales,
        bias=merged_bias(graph, linears, sizes),
        epilogue=ending.epilogue,
        other=ending.other,
    )
    node.name = f"{path}/SparseLinear"
    store(graph, initializers)
    result = graph.insert(node)
    if len(linears) == 1:
        graph.replace_uses(ending.output, result)
    else:
        distribute(graph, linears, result, sizes)


def _activations(
    graph: Graph, tensor: str, entry: Entry, path: str, shared: bool
) -> str | QuantizedTensor:
    """x itself, which the operator quantizes, or the codes shared by several linears."""
    if entry.format.endswith("-token"):
        codes, zero_point, scale = quantize_tokens(graph, tensor, path)
        return QuantizedTensor(codes, scale, zero_point, per_row=True)
    dense = any(n.op_type == "DynamicQuantizeLinear" for n in graph.consumers[tensor])
    if not shared and not dense:
        return tensor
    codes, zero_point, scale = quantize_tensor(graph, tensor, path)
    return QuantizedTensor(codes, scale, zero_point)


def _ending(graph: Graph, role: str, output: str) -> _Ending:
    """The nodes after a linear that its operator can include."""
    if role in ("output", "down"):
        return _residual(graph, output) or _Ending("none", output)
    activation = find_activation(graph, output) if role in ("up", "gate") else None
    if activation is None:
        return _Ending("none", output)
    if activation.name == "silu":
        return _gate(graph, activation.output) or _Ending("none", output)
    return _Ending(activation.name, activation.output)


def _residual(graph: Graph, output: str) -> _Ending | None:
    """The addition of the residual, if nothing else reads the product."""
    node = graph.only_reader(output, ("Add", "Sum"))
    if node is None or len(node.input) != 2:
        return None
    [other] = [name for name in node.input if name != output]
    computed = other in graph.producers or other in graph.inputs
    return _Ending("add", node.output[0], other) if computed else None


def _gate(graph: Graph, activated: str) -> _Ending | None:
    """The product of SiLU(gate) and another linear's output."""
    node = graph.only_reader(activated, ("Mul",))
    if node is None:
        return None
    [other] = [name for name in node.input if name != activated]
    return _Ending("silu-mul", node.output[0], other) if other in graph.producers else None
