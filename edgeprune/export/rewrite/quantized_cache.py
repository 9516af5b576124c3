"""Keep a fused decoder's key-value cache in 8 or 4 bits: a quarter or an eighth of its memory.

    key, value ─> GroupQueryAttention ─> present (integers) = round(x / scale), past * scale ─> ...

The runtime's operator rounds what it writes and scales what it reads, by one scale for each channel
of each key-value head, fixed in the graph. Keys want that: a few of their channels are far larger
than the others (KIVI, Liu et al., 2024). For values KIVI takes a scale for each token, which the
operator has not; nodes around it would have to, and would copy the whole cache at every step.

Scales are of the largest values that the graph itself writes into its cache on real text, keys
after their rotation. One operator has one width for keys and values both, so that keys of more bits
than values (K4V2: KV-AdaQuant, Hariri et al., 2025) cannot be asked for; layers may differ, and
those that lose least by what is measured get the fewer bits.

What it costs, as KL divergence in nats a token from the float cache (SmolLM2-135M in float32, 4
windows of 256 tokens of wikitext2.valid, benchmarks/cache_bits.py):

    keys, values    8, 8    4, 8    8, 4    4, 4    4, 2    2, 4
    as here         0.0020  0.080   0.119   0.195
    scale a token   0.0008          0.013*  0.092*  0.38*   4.7*      * with a zero point

With 6 bits on average, half of the layers in 4: 0.048 by measured costs, 0.080 at random, 0.148 for
the most costly half; keys and values apart, which the operator cannot, 0.044 (the costs were taken
on the first of the four windows).

So 8 bits are nearly free and 4 are not (perplexity 20.9 becomes 23.8), and keys of more bits than
values are worth having where a kernel has them. What it gains is memory: the operator takes longer
to fill such a cache than a float one, and less to read it at long contexts only. By how much, say
benchmarks/cache.py and the build's own measurement (measure/cache.py).
"""

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from edgeprune.base.progress import track
from edgeprune.export.rewrite.graph import Graph
from edgeprune.export.rewrite.grouped_attention import OPERATOR
from edgeprune.export.rewrite.verify import Feed, Outputs, run_graph
from edgeprune.runtime.logits import kl_divergence
from edgeprune.runtime.session import PAST, PRESENT

_TYPES = {8: TensorProto.INT8, 4: TensorProto.UINT8}
_ATTRIBUTES = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
_WIDTH = "kv_cache_bit_width"
# Places of the operator's inputs: keys and values of the cache, and the first of their scales.
_CACHES, _SCALES = (3, 4), 12


def quantize_cache(graph: Graph, batches: Sequence[Feed], bits: float = 8.0) -> int:
    """Store every layer's keys and values in integers; return how many layers.

    Args:
        batches: real text as input_ids and attention_mask, whose keys and values give the scales.
        bits: of a value on average: 8, 4, or between, where as many layers have 4 bits as that
            takes, those that move the logits least when each is alone in 4 bits.

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
    """KL divergence in nats a token, from 8 bits everywhere, when one layer alone has 4 bits; for
    every layer.

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
    """Undo `quantize_cache`: the same graph with its cache in float32; return how many layers."""
    nodes = [node for node in _attention(graph) if len(node.input) > _SCALES]
    for node in nodes:
        for place in _CACHES:
            scale = graph.initializers[f"{node.input[place]}.scale"]
            for name in _both(node.input[place]):
                graph.retype(name, TensorProto.FLOAT, scale.dims[-1])
        del node.input[_SCALES:]
        kept = [entry for entry in node.attribute if entry.name not in {*_ATTRIBUTES, _WIDTH}]
        del node.attribute[:]
        node.attribute.extend(kept)
    graph.index()
    graph.sweep()
    return len(nodes)


def cache_bytes(graph: Graph) -> int:
    """Bytes that the cache takes for one token of one sequence, of all layers."""
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
    """Give one layer's cache so many bits."""
    node.input.extend([""] * (_SCALES - len(node.input)))
    for place in _CACHES:
        past = node.input[place]
        # A channel that was always zero needs a scale that can be divided by.
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
    nodes = [node for node in graph.nodes if node.op_type == OPERATOR]
    if not nodes:
        raise ValueError("the attention is not fused, and only the fused one has such a cache")
    return nodes
