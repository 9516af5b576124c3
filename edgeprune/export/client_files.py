"""Files that clients read beside a graph: tokenizer and configuration."""

import shutil
from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.model.assets import copy_assets

ONNX = "onnx"
"""The folder of the graph, beside tokenizer and configuration."""


def copy_client_files(context: Context, model_folder: Path, target: Path) -> None:
    """Tokenizer and configuration beside a graph of the model in `model_folder`."""
    copy_assets(context.reference, target)
    # Clients size a decoder's cache by the layers that are left.
    shutil.copyfile(model_folder / "config.json", target / "config.json")
