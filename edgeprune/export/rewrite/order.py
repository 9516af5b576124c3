"""Read an ONNX model without its weights' files, for code that follows its tensors."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx

from edgeprune.base.errors import UserError


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model, leaving external data in its files.

    Raises:
        UserError: onnx cannot read it, or its nodes form a cycle.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors are of several kinds
        raise UserError(f"{path} is not an ONNX model that can be read: {error}.") from None
    makers = {
        output: place for place, node in enumerate(model.graph.node) for output in node.output
    }
    feeding = {
        place: {makers[name] for name in node.input if name in makers}
        for place, node in enumerate(model.graph.node)
    }
    try:
        TopologicalSorter(feeding).prepare()
    except CycleError as error:
        names = (told(model.graph.node[place]) for place in reversed(error.args[1]))
        raise UserError(
            f"{path} is not a graph that can run: its nodes feed each other in a circle, "
            f"{' to '.join(names)}."
        ) from None
    return model


def told(node: onnx.NodeProto) -> str:
    """A node's name for messages: its name, else its first output, with its operator."""
    return f"{node.name or next(iter(node.output), 'without a name')} ({node.op_type})"
