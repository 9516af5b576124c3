"""The outline of an ONNX file: the names of its inputs, outputs and operators, and of the files
that its weights lie in."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.runtime.onnx_graph import (
    Graph,
    Model,
    Node,
    Value,
    all_graphs,
    read_graph,
    stored_tensors,
)


@dataclass
class Outline:
    """The names in an ONNX file; ranks are None if the file states no shape.

    `operators`, `attributes` and `domains` are those of the graph's own nodes; `functions` are the
    operators in the bodies of model-local functions.
    """

    inputs: dict[str, int | None] = field(default_factory=dict)
    outputs: dict[str, int | None] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    attributes: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    functions: Counter[str] = field(default_factory=Counter)
    bits: set[int] = field(default_factory=set)
    """The `bits` attributes of operators on weights in groups."""
    external_files: set[str] = field(default_factory=set)


def read_outline(path: Path) -> Outline:
    """The outline of the ONNX file at `path`.

    Raises:
        UserError: the file is empty, truncated, or not an ONNX file.
    """
    return outline_of(read_graph(path))


def outline_of(model: Model) -> Outline:
    """The outline of a model that was read."""
    own = list(all_graphs(model.graph))
    bodies = [graph for each in model.functions for graph in all_graphs(Graph(node=each.node))]
    nodes = _nodes(own)
    return Outline(
        inputs=_ranks(model.graph.input),
        outputs=_ranks(model.graph.output),
        operators=Counter(node.op_type for node in nodes),
        attributes={attribute.name for node in nodes for attribute in node.attribute},
        domains={node.domain for node in nodes if node.domain},
        functions=Counter(node.op_type for node in _nodes(bodies)),
        bits={
            attribute.i
            for node in _nodes(own + bodies)
            for attribute in node.attribute
            if attribute.name == "bits"
        },
        external_files={
            entry.value
            for graph in own + bodies
            for tensor in stored_tensors(graph)
            for entry in tensor.external_data
            if entry.key == "location"
        },
    )


def _nodes(graphs: Iterable[Graph]) -> list[Node]:
    return [node for graph in graphs for node in graph.node]


def _ranks(values: Iterable[Value]) -> dict[str, int | None]:
    return {value.name: None if (sizes := value.sizes) is None else len(sizes) for value in values}
