"""Read a graph that can run, for code that follows its tensors."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.runtime.onnx_graph import Model, Node, read_graph


def read_ordered(path: Path) -> Model:
    """Read a model.

    Raises:
        UserError: it is none, or its nodes form a circle.
    """
    model = read_graph(path)
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


def told(node: Node) -> str:
    """A node's name for messages: its name, else its first output, with its operator."""
    return f"{node.name or next(iter(node.output), 'without a name')} ({node.op_type})"
