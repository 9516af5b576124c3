"""A plain ONNX file as a subject: what it needs is read off its graph."""

from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder, read_json
from edgeprune.measure.bench.subject import (
    CACHED_DECODER,
    DECODER,
    ENCODER,
    Subject,
    has_cache,
    is_float,
    kernels_note,
    onnx_load,
    own_command,
)
from edgeprune.measure.graph import read_ordered
from edgeprune.model.tasks import task_doing
from edgeprune.runtime.onnx_file import outline_of
from edgeprune.runtime.onnx_graph import Graph

ASSUMED_VOCABULARY = 1000
# What may stand between a table and the operator that looks rows up in it.
_KEEP_ROWS = ("DequantizeLinear", "Cast", "Identity")


def of_graph_file(path: Path) -> Subject:
    """The subject that an ONNX file is.

    Past key-values among its inputs make it a decoder; logits as wide as its vocabulary, one
    without a cache; anything else is timed as an encoder. A config.json beside it, or one folder
    up, gives the sizes of a cache that the graph leaves open.

    Raises:
        UserError: there is no such file, it is not an ONNX model, or its data is missing or lies
            outside its folder.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    model = read_ordered(path)
    outline = outline_of(model)
    files = [path]
    for location in sorted(outline.external_files):
        if leaves_folder(location):
            raise UserError(
                f"{path} wants its data from {location!r}, outside its folder: refused."
            )
        files.append(path.parent / location)
        if not files[-1].is_file():
            raise UserError(f"{path} needs the file {files[-1]}, which is missing.")
    graph = model.graph
    vocabulary = embedding_rows(graph)
    kinds = ENCODER
    if has_cache(outline.inputs):
        kinds = CACHED_DECODER
    elif vocabulary is not None and _last_size(graph, "logits") == vocabulary:
        kinds = DECODER
    configs = [folder / "config.json" for folder in (path.parent, path.parent.parent)]
    config = next((read_json(file) for file in configs if file.is_file()), {})
    task, notes = task_doing(kinds), kernels_note(path)
    if vocabulary is None:
        notes += (
            f"{path}: its graph shows no table of embeddings, so token ids were drawn below "
            f"{ASSUMED_VOCABULARY:,}.",
        )
    return Subject(
        name=str(path),
        command=own_command("edgeprune.measure.bench.worker"),
        kinds=kinds,
        load=onnx_load(path, vocabulary or ASSUMED_VOCABULARY, config),
        files=tuple(files),
        task=task.name if task else None,
        fusable=is_float(outline),
        notes=notes,
    )


def embedding_rows(graph: Graph) -> int | None:
    """The number of rows of the table in which `input_ids` are looked up; None where none is
    found."""
    producers = {output: node for node in graph.node for output in node.output}
    tables = {tensor.name: tensor.dims for tensor in graph.initializer}
    ids = {"input_ids"}
    for node in graph.node:  # in the order of the data, as ONNX demands
        if node.op_type in ("Cast", "Identity") and ids & set(node.input[:1]):
            ids.add(node.output[0])
        elif len(node.input) > 1 and ids & set(node.input) and node.op_type != "Shape":
            for name in node.input:
                while (maker := producers.get(name)) and maker.op_type in _KEEP_ROWS:
                    name = next(iter(maker.input), "")
                if len(tables.get(name, ())) == 2:
                    return tables[name][0]
    return None


def _last_size(graph: Graph, output: str) -> int | None:
    for value in graph.output:
        if value.name == output and value.sizes:
            return value.sizes[-1]
    return None
