"""The head of a model that reads texts: from the states of tokens to logits of labels or words.

states (B,S,W) ─> each token's, or one of the text ─> linears and norms ─> logits
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from edgeprune.export.emit.activations import ACTIVATIONS
from edgeprune.export.emit.writer import BATCH, TOKENS, Sizes, Writer, path_of
from edgeprune.export.graph import Graph
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.decoder_function import HeadLayers
from edgeprune.model.tasks import Task

STATES = "last_hidden_state"
FIRST, MEAN = "cls", "mean"
POOLINGS = (FIRST, MEAN)
"""A text's state: that of its first token, or the mean of all its tokens'."""


class Heads(Protocol):
    """The heads that a family's models may have, each layer by layer."""

    @property
    def label_head(self) -> HeadLayers: ...
    @property
    def token_head(self) -> HeadLayers: ...
    @property
    def word_head(self) -> HeadLayers: ...
    @property
    def span_head(self) -> HeadLayers: ...


def head_of(heads: Heads, task: Task) -> HeadLayers:
    """The one by which a task is answered."""
    if task.head == "vocabulary":
        return heads.word_head
    if task.head == "span":
        return heads.span_head
    return heads.token_head if task.logits_axes == 3 else heads.label_head


def writes_head(layers: HeadLayers, config: Mapping[str, Any], pooling: str, task: Task) -> bool:
    """Whether a task's answer can be written: states as they are, or logits by these layers."""
    if task.head is None:
        return True
    if not layers:
        return False
    activations = [config.get(name, name) for _, name in layers if name]
    known = all(name in ACTIVATIONS for name in activations)
    return known and (pooling in POOLINGS or task.logits_axes != 2)


def answer_of(anatomy: Anatomy, layers: HeadLayers, task: Task) -> dict[str, Sizes]:
    """The names and the sizes of what a graph answers: states, or logits."""
    if task.head == "span":
        return dict.fromkeys(task.outputs, (BATCH, TOKENS))
    [name] = task.outputs
    if task.head is None:
        return {name: (BATCH, TOKENS, anatomy.hidden_size)}
    count, _ = anatomy.shape(layers[-1][0])
    return {name: (BATCH, *((TOKENS,) if task.logits_axes == 3 else ()), count)}


def give(graph: Graph, x: str, task: Task) -> None:
    """Let what was made be what the graph answers; of several answers each is a column of it."""
    if len(task.outputs) == 1:
        graph.replace_uses(task.outputs[0], x)
        return
    axis = graph.add_constant("/answers/axis", np.array([-1]))
    columns = [f"/answers/Split_output_{place}" for place, _ in enumerate(task.outputs)]
    graph.add("Split", [x], "/answers/Split", outputs=columns, axis=-1)
    for name, column in zip(task.outputs, columns, strict=True):
        graph.replace_uses(name, graph.add("Squeeze", [column, axis], f"/answers/{name}"))


def pooled(writer: Writer, x: str, pooling: str) -> str:
    """The state of each text (B,W), of states (B,S,W)."""
    graph = writer.graph
    if pooling == FIRST:
        return graph.add("Gather", [x, writer.constant("/first", np.array(0))], "/first", axis=1)
    axis, path = writer.constant("/mean/axis", [1]), "/mean"
    mask = graph.add("Cast", ["attention_mask"], f"{path}/Cast", to=TensorProto.FLOAT)
    count = graph.add("ReduceSum", [mask, axis], f"{path}/ReduceSum", keepdims=1)
    row = graph.add("Unsqueeze", [mask, axis], f"{path}/Unsqueeze")
    total = graph.add("MatMul", [row, x], f"{path}/MatMul")
    total = graph.add("Squeeze", [total, axis], f"{path}/Squeeze")
    return graph.add("Div", [total, count], path)


def logits_of(
    writer: Writer,
    x: str,
    layers: HeadLayers,
    config: Mapping[str, Any],
    anatomy: Anatomy,
    epsilon: float,
) -> str:
    """The logits that linears and norms of a head make of states, one after the other.

    Args:
        epsilon: that of the norms.
    """
    for path, activation in layers:
        inside = f"{anatomy.prefix}{path}"
        module = inside if f"{inside}.weight" in writer.weights else path
        if table := anatomy.shared_weights.get(module):
            x = writer.tied(x, module, table)
        elif len(writer.weights.shapes[f"{module}.weight"]) == 1:
            x = writer.norm(x, module, epsilon)
        else:
            x = writer.linear(x, module)
        if activation:
            name = config.get(activation, activation)
            x = ACTIVATIONS[name](writer.graph, x, f"{path_of(module)}/activation")
    return x
