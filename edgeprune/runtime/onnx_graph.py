"""The graph in an ONNX file, without onnx and without its weights.

An ONNX file is one protobuf message. What is needed of it is read through a memory map: nodes,
tensors by name, type, shape and the file that they lie in, functions, and the shapes of inputs and
outputs. Stored values are stepped over, so that a model of any size opens at once and in little
memory. Names, field numbers and types are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.runtime.wire import Buffer, Field, Schema, read_message

INT = 2
"""The type of an attribute that is a whole number."""
INT64 = 7
TENSOR_BITS = {
    1: 32,  # FLOAT
    2: 8,  # UINT8
    3: 8,  # INT8
    4: 16,  # UINT16
    5: 16,  # INT16
    6: 32,  # INT32
    INT64: 64,
    8: 8,  # STRING, of which each is as long as it is
    9: 8,  # BOOL
    10: 16,  # FLOAT16
    11: 64,  # DOUBLE
    12: 32,  # UINT32
    13: 64,  # UINT64
    14: 64,  # COMPLEX64
    15: 128,  # COMPLEX128
    16: 16,  # BFLOAT16
    17: 8,  # FLOAT8E4M3FN
    18: 8,  # FLOAT8E4M3FNUZ
    19: 8,  # FLOAT8E5M2
    20: 8,  # FLOAT8E5M2FNUZ
    21: 4,  # UINT4
    22: 4,  # INT4
    23: 4,  # FLOAT4E2M1
    24: 8,  # FLOAT8E8M0
    25: 2,  # UINT2
    26: 2,  # INT2
}
"""Bits of one value of each type of tensors."""


@dataclass(slots=True)
class Entry:
    """A key and its value."""

    key: str = ""
    value: str = ""


@dataclass(slots=True)
class Tensor:
    """A stored tensor without its values."""

    name: str = ""
    data_type: int = 0
    dims: list[int] = field(default_factory=list)
    external_data: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class SparseTensor:
    """A stored tensor as its values and their places."""

    values: Tensor | None = None
    indices: Tensor | None = None


@dataclass(slots=True)
class Attribute:
    """A setting of a node: a number, tensors or graphs."""

    name: str = ""
    type: int = 0
    i: int = 0
    t: Tensor | None = None
    g: "Graph | None" = None
    tensors: list[Tensor] = field(default_factory=list)
    graphs: list["Graph"] = field(default_factory=list)
    sparse_tensor: SparseTensor | None = None
    sparse_tensors: list[SparseTensor] = field(default_factory=list)


@dataclass(slots=True)
class Node:
    """An operator's call."""

    name: str = ""
    op_type: str = ""
    domain: str = ""
    input: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    attribute: list[Attribute] = field(default_factory=list)


@dataclass(slots=True)
class Dimension:
    """A size, or a name where it is open."""

    size: int | None = None
    name: str | None = None


@dataclass(slots=True)
class Shape:
    """The sizes of a tensor."""

    dim: list[Dimension] = field(default_factory=list)


@dataclass(slots=True)
class TensorType:
    """The type of an input or output that is a tensor; no shape where none is stated."""

    elem_type: int = 0
    shape: Shape | None = None


@dataclass(slots=True)
class OtherType:
    """A type that is no tensor's."""


@dataclass(slots=True)
class Type:
    """The type of an input or output, one of these."""

    tensor: TensorType | None = None
    other: OtherType | None = None


@dataclass(slots=True)
class Value:
    """An input or an output."""

    name: str = ""
    type: Type | None = None

    @property
    def sizes(self) -> list[int | None] | None:
        """Its shape, None for each size that is open; None where no shape is stated."""
        tensor = self.type.tensor if self.type else None
        return [dim.size for dim in tensor.shape.dim] if tensor and tensor.shape else None


@dataclass(slots=True)
class Graph:
    """Nodes, stored tensors, inputs and outputs."""

    node: list[Node] = field(default_factory=list)
    initializer: list[Tensor] = field(default_factory=list)
    sparse_initializer: list[SparseTensor] = field(default_factory=list)
    input: list[Value] = field(default_factory=list)
    output: list[Value] = field(default_factory=list)


@dataclass(slots=True)
class Function:
    """An operator that the model brings with it, made of others."""

    name: str = ""
    domain: str = ""
    node: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Opset:
    """A domain of operators, and the version that is used."""

    domain: str = ""
    version: int = 0


@dataclass(slots=True)
class Model:
    """A whole file."""

    opset_import: list[Opset] = field(default_factory=list)
    graph: Graph = field(default_factory=Graph)
    functions: list[Function] = field(default_factory=list)


_SCHEMA: Schema = {
    Model: {
        7: Field("graph", Graph),
        8: Field("opset_import", Opset, many=True),
        25: Field("functions", Function, many=True),
    },
    Opset: {1: Field("domain", "text"), 2: Field("version", "int64")},
    Function: {
        1: Field("name", "text"),
        7: Field("node", Node, many=True),
        10: Field("domain", "text"),
    },
    Graph: {
        1: Field("node", Node, many=True),
        5: Field("initializer", Tensor, many=True),
        11: Field("input", Value, many=True),
        12: Field("output", Value, many=True),
        15: Field("sparse_initializer", SparseTensor, many=True),
    },
    Node: {
        1: Field("input", "text", many=True),
        2: Field("output", "text", many=True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: Field("attribute", Attribute, many=True),
        7: Field("domain", "text"),
    },
    Attribute: {
        1: Field("name", "text"),
        3: Field("i", "int64"),
        5: Field("t", Tensor),
        6: Field("g", Graph),
        10: Field("tensors", Tensor, many=True),
        11: Field("graphs", Graph, many=True),
        20: Field("type", "int32"),
        22: Field("sparse_tensor", SparseTensor),
        23: Field("sparse_tensors", SparseTensor, many=True),
    },
    Tensor: {
        1: Field("dims", "int64", many=True),
        2: Field("data_type", "int32"),
        8: Field("name", "text"),
        13: Field("external_data", Entry, many=True),
    },
    SparseTensor: {1: Field("values", Tensor), 2: Field("indices", Tensor)},
    Entry: {1: Field("key", "text"), 2: Field("value", "text")},
    Value: {1: Field("name", "text"), 2: Field("type", Type)},
    Type: {
        1: Field("tensor", TensorType, instead=("other",)),
        **{number: Field("other", OtherType, instead=("tensor",)) for number in (4, 5, 7, 8, 9)},
    },
    OtherType: {},
    TensorType: {1: Field("elem_type", "int32"), 2: Field("shape", Shape)},
    Shape: {1: Field("dim", Dimension, many=True)},
    Dimension: {
        1: Field("size", "int64", instead=("name",)),
        2: Field("name", "text", instead=("size",)),
    },
}


def read_graph(path: Path) -> Model:
    """The model in the ONNX file at `path`.

    Raises:
        UserError: the file is empty, truncated, or not an ONNX file.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            model = parse_graph(data)
    except ValueError as error:
        raise UserError(
            f"{path} is not a whole ONNX file: it is empty, truncated or of another format "
            f"({error})."
        ) from None
    if not model.graph.output:
        raise UserError(f"{path} is not an ONNX model: it has no graph with outputs.")
    return model


def parse_graph(data: Buffer) -> Model:
    """The model that bytes are.

    Raises:
        ValueError: they are none.
    """
    return read_message(data, Model(), _SCHEMA)


def all_graphs(graph: Graph) -> Iterator[Graph]:
    """A graph and those in its nodes' attributes, as the branches of an If."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.g else []) + attribute.graphs:
                yield from all_graphs(inner)


def stored_tensors(graph: Graph) -> Iterator[Tensor]:
    """The tensors that a graph stores, in its nodes' attributes too, without graphs within it."""
    sparse = list(graph.sparse_initializer)
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.t:
                yield attribute.t
            yield from attribute.tensors
            sparse += ([attribute.sparse_tensor] if attribute.sparse_tensor else []) + (
                attribute.sparse_tensors
            )
    for each in sparse:
        yield from (part for part in (each.values, each.indices) if part)
