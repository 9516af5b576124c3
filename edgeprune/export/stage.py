"""The stages that write a graph: the original's, and the compressed model's."""

import shutil
from pathlib import Path
from typing import Any

from edgeprune.compress.context import Context
from edgeprune.export.trace import export_onnx, export_plain
from edgeprune.model.assets import copy_assets
from edgeprune.model.store import load_model

ONNX = "onnx"
"""The folder of the graph, beside tokenizer and configuration."""


def original(context: Context, source: Path, target: Path, settings: None) -> dict[str, Any]:
    """Export the untouched model plainly to float32 ONNX: the reference of every comparison."""
    path = export_plain(context.folders["load"], target)
    return {"bytes": path.stat().st_size}


def export(context: Context, source: Path, target: Path, settings: None) -> dict[str, Any]:
    """Write the model's graph in float32, as a folder that a client runs."""
    copy_client_files(context, source, target)
    path = export_onnx(load_model(source), target / ONNX)
    return {"bytes": path.stat().st_size}


def copy_client_files(context: Context, model_folder: Path, target: Path) -> None:
    """Tokenizer and configuration beside a graph of the model in `model_folder`."""
    copy_assets(context.reference, target)
    # Clients size a decoder's cache by the layers that are left.
    shutil.copyfile(model_folder / "config.json", target / "config.json")
