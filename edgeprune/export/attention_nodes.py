"""The nodes of an attention that every token sees whole, with a layer's own head counts:

    q (B,S,H*D) -> (B,H,S,D) \\
    k (B,S,H*D) -> (B,H,D,S)  > product * 1/sqrt(D) + mask -> softmax -> product with v
    v (B,S,H*D) -> (B,H,S,D) /                             -> (B,S,H*D)

A fused MultiHeadAttention is no faster on a CPU (benchmarks/README.md, "fused encoder attention"),
and any client runs the standard operators.
"""

import math
from collections.abc import Iterable

import numpy as np
from onnx import TensorProto

from edgeprune.export.graph import Graph
from edgeprune.model.anatomy import Attention

MASKED = float(np.finfo(np.float32).min)


def attend(
    graph: Graph,
    path: str,
    attention: Attention,
    projections: tuple[str, str, str],
    added: Iterable[str],
) -> str:
    """Write the attention of a layer; return its result, which the output projection reads.

    Args:
        path: the path of its nodes.
        projections: query, key and value, each (B,S,H*D).
        added: what is added to the scores (B,H,S,S).
    """
    query, key, value = projections
    size = attention.head_dim
    query = split_heads(graph, path, size, query, "query", [0, 2, 1, 3])
    key = split_heads(graph, path, size, key, "key", [0, 2, 3, 1])
    value = split_heads(graph, path, size, value, "value", [0, 2, 1, 3])
    scores = scaled_scores(graph, path, size, query, key)
    for place, tensor in enumerate(added):
        scores = graph.add("Add", [scores, tensor], f"{path}/Masked_{place}")
    weights = graph.add("Softmax", [scores], f"{path}/Weights", axis=-1)
    context = graph.add("MatMul", [weights, value], f"{path}/Context")
    return join_heads(graph, path, attention, context)


def split_heads(
    graph: Graph, path: str, head_dim: int, tensor: str, role: str, perm: list[int]
) -> str:
    """(B,S,H*D) -> (B,S,H,D), transposed."""
    shape = graph.add_constant(f"{path}/heads", np.array([0, 0, -1, head_dim], np.int64))
    split = graph.add("Reshape", [tensor, shape], f"{path}/{role}/Heads")
    return graph.add("Transpose", [split], f"{path}/{role}/HeadsFirst", perm=perm)


def join_heads(graph: Graph, path: str, attention: Attention, context: str) -> str:
    """(B,H,S,D) -> (B,S,H*D)."""
    tokens = graph.add("Transpose", [context], f"{path}/TokensFirst", perm=[0, 2, 1, 3])
    width = attention.num_heads * attention.head_dim
    shape = graph.add_constant(f"{path}/width", np.array([0, 0, width], np.int64))
    return graph.add("Reshape", [tokens, shape], f"{path}/Merged")


def scaled_scores(graph: Graph, path: str, head_dim: int, query: str, key: str) -> str:
    """query @ key / sqrt(D)."""
    product = graph.add("MatMul", [query, key], f"{path}/Scores")
    scale = graph.add_constant(f"{path}/scale", np.array(1 / math.sqrt(head_dim), np.float32))
    return graph.add("Mul", [product, scale], f"{path}/Scaled")


def padding_mask(graph: Graph) -> str:
    """(B,S) of ones and zeros -> (B,1,1,S) of zeros and the most negative float."""
    mask = "/attention_mask/Mul_output_0"
    if mask in graph.producers:
        return mask
    axes = graph.add_constant("/attention_mask/axes", np.array([1, 2], np.int64))
    rows = graph.add("Unsqueeze", ["attention_mask", axes], "/attention_mask/Unsqueeze")
    kept = graph.add("Cast", [rows], "/attention_mask/Cast", to=TensorProto.FLOAT)
    one = graph.add_constant("/attention_mask/one", np.array(1, np.float32))
    gone = graph.add("Sub", [one, kept], "/attention_mask/Sub")
    low = graph.add_constant("/attention_mask/low", np.array(MASKED, np.float32))
    return graph.add("Mul", [gone, low], "/attention_mask/Mul")
