"""Graphs of one bundle that keep equal tensors once.

Graphs of the same model for several processors differ in little. What two of them both hold goes
to one file of external data beside them, which each reads in place.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.runtime.onnx_file import read_outline

if TYPE_CHECKING:
    from edgeprune.export.graph import Graph


def shared_data(
    graphs: Mapping[str, Path], sharing: Collection[str], folder: Path
) -> dict[str, Path]:
    """The graphs to put into a bundle, those that may share with equal tensors in one file, which
    is called after the first of them; a graph with data of its own, after itself.

    Args:
        graphs: by its path in the bundle, each graph's file.
        sharing: the paths of those that may share.
        folder: where graphs are written that do not stay as they are.

    Returns:
        By the same paths, files with all their data beside them.
    """
    # Changing graphs needs the build install, and a dry run on a device imports this file.
    from edgeprune.export.graph import Graph

    loaded = {name: Graph.load(graphs[name]) for name in sharing} if len(sharing) > 1 else {}
    together = _shelved(loaded, folder)
    renamed = {
        name: folder / name
        for name, file in graphs.items()
        if name not in together
        and file.name != Path(name).name
        and read_outline(file).external_files
    }
    for name, file in renamed.items():
        Graph.load(graphs[name]).save(file)
    return {**graphs, **renamed, **together}


def _shelved(graphs: "Mapping[str, Graph]", folder: Path) -> dict[str, Path]:
    """Write graphs whose equal tensors lie in one file; none where nothing is equal."""
    from edgeprune.export.tensors import Shelf, fits

    keys = {name: _keys(graph) for name, graph in graphs.items()}
    held = Counter(key for each in keys.values() for key in set(each.values()))
    if max(held.values(), default=0) < 2:
        return {}
    first = folder / next(iter(graphs))
    first.parent.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(first.with_name(f"{first.name}_data"))
    placed: dict[str, Any] = {}
    written = {}
    for name, graph in graphs.items():
        whole = fits(graph.initializers)
        moved = {tensor: key for tensor, key in keys[name].items() if held[key] > 1 or not whole}
        new = {key: graph.initializers[tensor] for tensor, key in moved.items()}
        new = {key: tensor for key, tensor in new.items() if key not in placed}
        shelf.put(new)
        placed |= new
        graph.initializers |= {tensor: placed[key] for tensor, key in moved.items()}
        written[name] = graph.save_on(shelf, Path(name).name)
    return written


def _keys(graph: "Graph") -> dict[str, str]:
    """By name, what tells a graph's large tensors apart: type, sizes and bytes."""
    from edgeprune.export.tensors import SMALL_BYTES

    return {
        name: f"{tensor.dtype} {tensor.shape} {hashlib.sha256(tensor.tobytes()).hexdigest()}"
        for name, tensor in graph.initializers.items()
        if tensor.nbytes >= SMALL_BYTES
    }
