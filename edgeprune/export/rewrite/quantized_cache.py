"""Store a fused decoder's key-value cache in 8 or 4 bits: a quarter or an eighth of its memory.

    key, value ─> GroupQueryAttention ─> present (integers) = round(x / scale), past * scale ─> ...

The runtime's operator rounds what it writes and scales what it reads, with a fixed scale for each
channel of each key-value head. That suits keys, of which a few channels are far larger than the
others (KIVI, Liu et al., 2024). For values KIVI uses a scale per token, which the operator does not
support; nodes around it could, but would copy the whole cache at every step.

Scales follow from the largest values that the graph itself writes into its cache on real text, keys
after their rotation. The operator has one width for both keys and values, so keys cannot have more
bits than values (K4V2: KV-AdaQuant, Hariri et al., 2025). Layers may differ: those whose measured
loss is smallest get fewer bits.

8 bits are nearly free and 4 are not; layers chosen by measured cost lose less than layers chosen at
random; and keys with more bits than values would be worth having in a kernel (benchmarks/README.md,
"Key-value cache", by benchmarks/cache_bits.py). The gain is memory: the operator takes longer to
fill such a cache than a float one, and reads it faster only at long contexts. benchmarks/cache.py
and the build's own measurement (pipeline/measure/cache.py) say by how much.
"""

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from edgeprune.base.progress import track
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.outputs import Feed, Outputs
from edgeprune.export.rewrite.verify import run_graph
from edgeprune.runtime.logits import kl_divergence
from edgeprune.runtime.names import FUSED_ATTENTION, PAST, PRESENT

_TYPES = {8: TensorProto.INT8, 4: TensorProto.UINT8}
_ATTRIBUTES = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
_WIDTH = "kv_cache_bit_width"
# Indices of the operator's inputs: keys and values of the cache, and the first of their scales.
_CACHES, _SCALES = (3, 4), 12


def quantize_cache(graph: Graph, batches: Sequence[Feed], bits: float = 8.0) -> int:
    """Store every layer's keys and values in integers; return how many layers.

    Args:
        batches: real text as input_ids and attention_mask, whose keys and values give the scales.
        bits: average bits of a value: 8, 4, or between. As many layers as needed then have 4 bits:
            those that move the logits least when each alone has 4 bits.

    Raises:
        ValueError: the attention is not fused.
    """
    nodes = _attention(graph)
    largest = largest_values(graph, batches)
    few = math.ceil((8.0 - bits) / 4.0 * len(nodes) - 1e-9)
    costs = layer_costs(graph, batches, largest) if 0 < few < len(nodes) else [0.0] * len(nodes)
    cheapest = np.argsort(costs, kind="stable")[:few].tolist()
    for layer, node in enumerate(nodes):
        _quantize(graph, node, largest, 4 if layer in cheapest else 8)
    graph.index()
    return len(nodes)


def layer_costs(
    graph: Graph, batches: Sequence[Feed], largest: dict[str, np.ndarray]
) -> list[float]:
    """For each layer, the KL divergence in nats per token from 8 bits everywhere if it alone has 4
    bits.

    Args:
        largest: the graph's `largest_values` on the batches.
    """
    layers = range(len(_attention(graph)))

    def logits(fewest: int | None) -> Outputs:
        trial = graph.snapshot()
        for layer, node in enumerate(_attention(trial)):
            _quantize(trial, node, largest, 4 if layer == fewest else 8)
        return run_graph(trial, batches)

    reference = logits(None)
    return [
        _divergence(reference, logits(layer), batches)
        for layer in track(layers, "cost of 4 bits in a layer", len(layers))
    ]


def float_cache(graph: Graph) -> int:
    """Undo `quantize_cache`: put the cache back in float32; return how many layers."""
    nodes = [node for node in _attention(graph) if len(node.input) > _SCALES]
    for node in nodes:
        for place in _CACHES:
            shape = graph.shape(f"{node.input[place]}.scale")
            assert shape is not None
            for name in _both(node.input[place]):
                graph.retype(name, TensorProto.FLOAT, shape[-1])
        del node.input[_SCALES:]
        kept = [entry for entry in node.attribute if entry.name not in {*_ATTRIBUTES, _WIDTH}]
        del node.attribute[:]
        node.attribute.extend(kept)
    graph.index()
    graph.sweep()
    return len(nodes)


def cache_bytes(graph: Graph) -> int:
    """Bytes of the cache per token of a sequence, over all layers."""
    total = 0
    for _, elem_type, (_, heads, _, size) in graph.input_shapes(PAST):
        total += heads * size * helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    return total


def largest_values(graph: Graph, batches: Sequence[Feed]) -> dict[str, np.ndarray]:
    """The largest magnitude in each channel of each cache input (1, heads, 1, head size)."""
    largest: dict[str, np.ndarray] = {}
    for outputs in run_graph(graph, batches):
        for name, values in outputs.items():
            if name.startswith(PRESENT):
                seen = np.abs(values).max(axis=(0, 2), keepdims=True)
                past = name.replace(PRESENT, PAST, 1)
                largest[past] = np.maximum(largest.get(past, 0.0), seen)
    return largest


def _quantize(graph: Graph, node: NodeProto, largest: dict[str, np.ndarray], bits: int) -> None:
    """Store one layer's cache in `bits` bits."""
    node.input.extend([""] * (_SCALES - len(node.input)))
    for place in _CACHES:
        past = node.input[place]
        # A channel that is always zero needs a scale other than zero.
        scale = np.maximum(largest[past] / (2 ** (bits - 1) - 1), np.finfo(np.float32).tiny)
        node.input.append(graph.add_constant(f"{past}.scale", scale.astype(np.float32)))
        for name in _both(past):
            graph.retype(name, _TYPES[bits], scale.shape[-1] * bits // 8)
    for name, value in (*_ATTRIBUTES.items(), (_WIDTH, bits)):
        node.attribute.append(helper.make_attribute(name, value))


def _both(past: str) -> tuple[str, str]:
    return past, past.replace(PAST, PRESENT, 1)


def _divergence(reference: Outputs, found: Outputs, batches: Sequence[Feed]) -> float:
    """Mean KL(reference || found) of the attended tokens' logits, in nats."""
    nats = [
        kl_divergence(before["logits"][mask == 1], after["logits"][mask == 1])
        for before, after, mask in zip(
            reference, found, (batch["attention_mask"] for batch in batches), strict=True
        )
    ]
    return float(np.concatenate(nats).mean())


def _attention(graph: Graph) -> list[NodeProto]:
    nodes = [node for node in graph.nodes if node.op_type == FUSED_ATTENTION]
    if not nodes:
        raise ValueError("the attention is not fused, and only the fused one has such a cache")
    return nodes
