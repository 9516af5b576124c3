"""The stages that write a graph: the original's, and the compressed model's."""

from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.export.client_files import ONNX, copy_client_files
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.exported_model import write_export_manifest
from edgeprune.export.optimum_exporter import export_by_optimum
from edgeprune.export.record import Exported
from edgeprune.export.settings import ExportSettings
from edgeprune.export.trace import export_onnx, export_plain
from edgeprune.model.store import load_model
from edgeprune.model.tasks import TASKS


def original(context: Context, source: Path, target: Path, settings: None) -> Exported:
    """Export the untouched model plainly to float32 ONNX: the reference of every comparison. It is
    what others would run, so it is traced."""
    path = export_plain(context.folders["load"], target)
    write_export_manifest(target, context.checkpoint)
    return Exported(bytes=path.stat().st_size)


def export(context: Context, source: Path, target: Path, settings: ExportSettings) -> Exported:
    """Write the model's graph in float32, as a folder that a client runs: emitted where its family
    is known well enough, else traced; or by optimum's exporter, where that is asked for."""
    copy_client_files(context, source, target)
    path = target / ONNX / "model.onnx"
    if settings.by == "optimum":
        export_by_optimum(source, TASKS[context.checkpoint.task], path, settings.minutes)
        return Exported(bytes=path.stat().st_size)
    graph = emitted(source)
    if graph is None:
        export_onnx(load_model(source), path.parent)
    elif context.streamed:  # too large to be written in float32
        return Exported(bytes=graph.bytes(), written=False)
    else:
        graph.save(path)
    return Exported(bytes=path.stat().st_size)
