"""An ONNX graph to search and change, indexed by producers and readers of tensors."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import NodeProto, TensorProto, helper, shape_inference

from edgeprune.export.tensors import Shelf, bytes_of, to_proto, values_of, write_model
from edgeprune.kernels.node import add_functions

CONTRIB = "com.microsoft"
BEGIN, END = "begin", "end"
"""The input and the output of a part of a graph."""
_SMALL_ELEMENTS = 64


class Graph:
    """A model's graph with its indexes. Passes change it in place; `save` and `model` give the
    result.

    Stored tensors are onnx-ir's, each read when it is asked for.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path = Path()) -> None:
        """`folder`: where the files lie that hold some of its tensors."""
        self._model = _header(model)
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.initializers: dict[str, ir.TensorProtocol] = {
            tensor.name: ir.serde.deserialize_tensor(tensor, folder)
            for tensor in model.graph.initializer
        }
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.stations: list[str] = []
        """The states that enter each layer, and those that leave the last, where it was emitted."""
        self._replaced: dict[str, str] = {}
        self._shelf = Shelf()
        self.index()

    @classmethod
    def load(cls, path: Path) -> "Graph":
        """Read a model; tensors in files beside it are read when they are asked for."""
        return cls(onnx.load(str(path), load_external_data=False), path.parent)

    def snapshot(self) -> "Graph":
        """A copy to return to. The weights are shared, because no pass changes one in place."""
        twin = Graph.__new__(Graph)
        twin._model = _header(self._model)
        twin.nodes = [_copy(node) for node in self.nodes]
        twin.initializers = dict(self.initializers)
        twin.inputs, twin.outputs = list(self.inputs), list(self.outputs)
        twin.metadata = dict(self.metadata)
        twin.stations = list(self.stations)
        twin._replaced = dict(self._replaced)
        twin._shelf = self._shelf
        twin.index()
        return twin

    def part(self, begin: str | None, end: str, kept: Iterable[str] = ()) -> "Graph":
        """A copy of the nodes by which a tensor follows from another, which becomes the input
        BEGIN, and from the graph's inputs; weights are shared.

        Args:
            end: becomes the output END where it is none of the graph's.
            kept: outputs of the graph that the part has, too.
        """
        twin = self.snapshot()
        twin._shelf = Shelf()
        twin.nodes = twin.ancestors_of([end, *kept], [begin] if begin else [])
        called = {begin: BEGIN, end: end if end in self.outputs else END}
        for node in twin.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = called.get(name, name)
        twin.index()
        read = {name for node in twin.nodes for name in node.input}
        given = [value for value in self._model.graph.input if value.name in read]
        del twin._model.graph.input[:]
        twin._model.graph.input.extend(given)
        twin.inputs = [value.name for value in given]
        if begin:
            twin.add_input(BEGIN)
        twin.outputs = [name for name in self.outputs if name == end or name in kept]
        twin.add_output(called[end])
        twin.sweep()
        return twin

    def index(self) -> None:
        """Rebuild the index of producers and readers; the changing methods keep it up to date."""
        self.producers: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            self._enter(node)

    def _enter(self, node: NodeProto) -> None:
        for name in node.output:
            self.producers[name] = node
        for name in set(node.input):
            self.consumers[name].append(node)

    def node(self, name: str) -> NodeProto | None:
        """The node of that name, or None."""
        return next((node for node in self.nodes if node.name == name), None)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of an initializer; None for a computed tensor or an input."""
        tensor = self._stored(name)
        return None if tensor is None else values_of(tensor)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of an initializer, whose value is not read; None as above."""
        tensor = self._stored(name)
        return None if tensor is None else tuple(tensor.shape.numpy())

    def _stored(self, name: str) -> ir.TensorProtocol | None:
        return None if name in self.inputs else self.initializers.get(name)

    def is_small(self, name: str, elements: int = _SMALL_ELEMENTS) -> bool:
        """Whether a tensor is an initializer of so few elements."""
        shape = self.shape(name)
        return shape is not None and math.prod(shape) <= elements

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """Store an array under a name, which must not already hold another value."""
        return self.add_tensor(name, ir.Tensor(np.asarray(value, order="C"), name=name))

    def add_tensor(self, name: str, tensor: ir.TensorProtocol) -> str:
        """Store a tensor, which may be lazy, under a name, as above."""
        self.initializers[name] = tensor
        return name

    def add_made(
        self, name: str, dtype: str, shape: Sequence[int], make: Callable[[], np.ndarray]
    ) -> str:
        """Store an array under a name, as above, that is made each time it is written.

        Args:
            dtype, shape: of what `make` returns, the first as numpy calls it.
        """

        def made() -> ir.Tensor:
            return ir.Tensor(np.ascontiguousarray(make()), name=name)

        kind = ir.DataType.from_numpy(np.dtype(dtype))
        return self.add_tensor(name, ir.LazyTensor(made, kind, ir.Shape(shape), name=name))

    def add_option(self, name: str, default: np.ndarray) -> str:
        """Add an optional input, which has a default value."""
        self.add_constant(name, default)
        self.inputs.append(name)
        tensor = self.initializers[name]
        value = helper.make_tensor_value_info(name, tensor.dtype.value, tensor.shape.numpy())
        self._model.graph.input.append(value)
        return name

    def add_input(self, name: str) -> None:
        """Add a float32 input of any shape."""
        self.inputs.append(name)
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        self._model.graph.input.append(value)

    def add_output(self, name: str) -> None:
        """Add a float32 tensor to the outputs."""
        if name not in self.outputs:
            self.outputs.append(name)
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            self._model.graph.output.append(value)

    def input_shapes(self, prefix: str) -> Iterator[tuple[str, int, list[int]]]:
        """(name, type, shape) of the inputs with this prefix; an open size is 0."""
        for value in self._model.graph.input:
            if value.name.startswith(prefix):
                tensor = value.type.tensor_type
                yield value.name, tensor.elem_type, [d.dim_value for d in tensor.shape.dim]

    def retype(self, name: str, elem_type: int, last_size: int) -> None:
        """Change the type of an input or output of the graph, and the size of its last axis."""
        for value in (*self._model.graph.input, *self._model.graph.output):
            if value.name == name:
                value.type.tensor_type.elem_type = elem_type
                value.type.tensor_type.shape.dim[-1].dim_value = last_size

    def add(
        self,
        op_type: str,
        inputs: Iterable[str],
        name: str,
        outputs: list[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node and return its first output, named after the node unless given."""
        outputs = outputs or [f"{name}_output_0"]
        return self.insert(
            helper.make_node(op_type, list(inputs), outputs, name, domain=domain, **attributes)
        )

    def insert(self, node: NodeProto) -> str:
        """Append an existing node and return its first output."""
        self.nodes.append(node)
        self._enter(node)
        return node.output[0]

    def only_reader(self, tensor: str, op_types: Collection[str]) -> NodeProto | None:
        """The only node that reads a tensor, if it is of these types and reads it once."""
        readers = self.consumers.get(tensor, [])
        if tensor in self.outputs or len(readers) != 1:
            return None
        [node] = readers
        once = list(node.input).count(tensor) == 1
        return node if once and node.op_type in op_types else None

    def replace_uses(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new`; a graph output keeps its name."""
        if old not in self.outputs and old != new:  # a new node may take an old one's name
            self._replaced[old] = new
        for node in self.consumers.pop(old, []):
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new
            if node not in self.consumers[new]:
                self.consumers[new].append(node)
        if old in self.outputs:
            producer = self.producers[new]
            for place, name in enumerate(producer.output):
                if name == new:
                    producer.output[place] = old
            self._detach(old, producer)
            self.index()
            for reader in list(self.consumers.get(new, [])):
                for place, name in enumerate(reader.input):
                    if name == new:
                        reader.input[place] = old
            self.index()

    def now(self, name: str) -> str:
        """The tensor that is now read in place of `name`."""
        while name in self._replaced:
            name = self._replaced[name]
        return name

    def holds(self, name: str) -> bool:
        """Whether a tensor exists, computed or as an input."""
        return name in self.producers or name in self.inputs

    def _detach(self, output: str, keep: NodeProto) -> None:
        """Drop every other producer of `output`."""
        self.nodes = [n for n in self.nodes if n is keep or output not in n.output]

    def remove(self, nodes: Iterable[NodeProto]) -> None:
        """Remove nodes."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self.index()

    def sweep(self) -> int:
        """Remove nodes and initializers that no output needs; return how many nodes that were."""
        needed, live = list(self.outputs), []
        seen: set[int] = set()
        while needed:
            node = self.producers.get(needed.pop())
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                needed.extend(node.input)
        live = [node for node in self.nodes if id(node) in seen]
        removed = len(self.nodes) - len(live)
        self.nodes = live
        self.index()
        read = {name for node in live for name in node.input} | set(self.outputs)
        self.initializers = {k: v for k, v in self.initializers.items() if k in read}
        return removed

    def ancestors(self, name: str, stop: Iterable[str] = ()) -> list[NodeProto]:
        """Every node that a tensor is computed from, without going past the tensors in `stop`."""
        return self.ancestors_of([name], stop)

    def ancestors_of(self, names: Iterable[str], stop: Iterable[str] = ()) -> list[NodeProto]:
        """The same of several tensors."""
        barrier, found, todo = set(stop), [], list(names)
        seen: set[int] = set()
        while todo:
            tensor = todo.pop()
            node = None if tensor in barrier else self.producers.get(tensor)
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                found.append(node)
                todo.extend(node.input)
        return found

    def sources(self, name: str) -> set[str]:
        """The graph inputs that a tensor depends on."""
        read = {i for node in self.ancestors(name) for i in node.input} | {name}
        return read & set(self.inputs)

    def sort(self) -> None:
        """Sort the nodes so that every tensor is computed before it is read."""
        waiting = {id(n): {i for i in n.input if i in self.producers} for n in self.nodes}
        ready = [node for node in self.nodes if not waiting[id(node)]]
        order: list[NodeProto] = []
        position = 0
        while position < len(ready):
            node = ready[position]
            position += 1
            order.append(node)
            for output in node.output:
                for reader in self.consumers.get(output, []):
                    left = waiting[id(reader)]
                    if output in left:
                        left.discard(output)
                        if not left:
                            ready.append(reader)
        if len(order) != len(self.nodes):
            raise ValueError("the graph has a cycle")
        self.nodes = order

    def model(self) -> onnx.ModelProto:
        """The graph as a model in memory, with its tensors."""
        model = self._bare_model()
        stored = (to_proto(name, tensor) for name, tensor in self.initializers.items())
        model.graph.initializer.extend(stored)
        return model

    def _bare_model(self) -> onnx.ModelProto:
        """The model without its tensors: sorted, with the operator sets and functions that it
        uses."""
        self.sort()
        model = _header(self._model)
        model.graph.node.extend(self.nodes)
        helper.set_model_props(model, self.metadata)
        add_functions(model)
        for place in reversed(range(len(model.graph.output))):
            if model.graph.output[place].name not in self.outputs:
                del model.graph.output[place]
        self._import_domains(model)
        return model

    def _import_domains(self, model: onnx.ModelProto) -> None:
        known = {entry.domain for entry in model.opset_import}
        for domain in sorted({node.domain for node in self.nodes} - known - {""}):
            model.opset_import.append(helper.make_opsetid(domain, 1))

    def save(self, path: Path) -> list[Path]:
        """Write the model, with a separate file of weights beyond 2 GB; return the files. One
        tensor at a time is in memory."""
        return write_model(self._bare_model(), self.initializers, path)

    def save_for_session(self) -> Path:
        """Write the model for a session that begins before it is asked for the next, here or of a
        snapshot. Its large tensors move to a temporary file, where all these sessions read them.
        """
        self._shelf.put(self.initializers)
        return self._shelf.write(self._bare_model(), self.initializers)

    def save_on(self, shelf: Shelf, name: str) -> Path:
        """Write the model beside a shelf's file, which holds those of its tensors that were put
        there; return its path."""
        return shelf.write(self._bare_model(), self.initializers, name)

    def outline(self) -> onnx.ModelProto:
        """The graph with large weights as inputs: enough for shape inference."""
        self.sort()
        source = self._model
        outline = onnx.ModelProto(ir_version=source.ir_version)
        outline.opset_import.extend(source.opset_import)
        outline.functions.extend(source.functions)
        outline.graph.name = "outline"
        outline.graph.node.extend(self.nodes)
        self._import_domains(outline)
        outline.graph.input.extend(source.graph.input)
        for output in source.graph.output:
            # Only the type: the tracer's shape of an output is a claim, not a proof.
            value = outline.graph.output.add(name=output.name)
            value.type.tensor_type.elem_type = output.type.tensor_type.elem_type
        for name, tensor in self.initializers.items():
            if tensor.size <= _SMALL_ELEMENTS:
                outline.graph.initializer.append(to_proto(name, tensor))
            else:
                value = helper.make_tensor_value_info(
                    name, tensor.dtype.value, tensor.shape.numpy()
                )
                outline.graph.input.append(value)
        return outline

    def types(self) -> dict[str, int]:
        """The element type of every tensor of which it follows from stock operators."""
        inferred = shape_inference.infer_shapes(self.outline())
        values = [*inferred.graph.value_info, *inferred.graph.input]
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {name: tensor.dtype.value for name, tensor in self.initializers.items()}
        return {name: kind for name, kind in types.items() if kind != TensorProto.UNDEFINED}

    @property
    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        """The operator sets that the model uses."""
        return list(self._model.opset_import)

    @property
    def ir_version(self) -> int:
        """The version of the file's format."""
        return self._model.ir_version

    def bytes(self) -> int:
        """Bytes of all stored tensors."""
        return bytes_of(self.initializers)


def _header(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with everything but nodes and weights; it keeps its functions."""
    header = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    header.opset_import.extend(model.opset_import)
    header.functions.extend(model.functions)
    header.graph.name = model.graph.name
    header.graph.input.extend(model.graph.input)
    header.graph.output.extend(model.graph.output)
    return header


def _copy(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default
