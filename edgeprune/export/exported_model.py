"""Files that transformers' own `ExportedModel` reads beside a graph.

`ExportedModel.from_pretrained(folder)` finds graph, inputs and the class of the answer in
export.json. It asks for a file of weights beside every graph, too: where the graph holds its own,
that file is empty. A decoder is called with its cache by name, and answers with a dictionary.
"""

import json
from pathlib import Path
from typing import Any

from edgeprune.export.client_files import ONNX
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.onnx_file import read_outline

_FILE = "export.json"
_SCHEMA = 1
_WEIGHTS = ".data"


def write_export_manifest(folder: Path, checkpoint: Checkpoint) -> None:
    """Write export.json for a graph of the checkpoint's kind in `folder`/onnx/model.onnx."""
    file = f"{ONNX}/model.onnx"
    outline = read_outline(folder / file)
    names = list(outline.outputs)
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    answer = {
        "type": TASKS[checkpoint.task].answer,
        "context": json.dumps(names),
        "children_spec": [leaf] * len(names),
    }
    metadata = {
        "architecture": checkpoint.config["architectures"][0],
        "export_dtype": "float32",
        "export_device": "cpu",
        "kwargs": {name: {} for name in outline.inputs},
        "out_spec": json.dumps([_SCHEMA, answer]),
    }
    manifest = {
        "schema_version": _SCHEMA,
        "export_format": "onnx",
        "components": {"model": {"file": file, "metadata": metadata}},
    }
    (folder / _FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / f"{file}{_WEIGHTS}").touch()
