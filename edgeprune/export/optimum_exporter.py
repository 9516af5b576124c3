"""optimum's exporter, run in an environment of its own.

    model folder ─> its Python: optimum.exporters.onnx ─> graph with the hub's names

It is offline, sees none of this process's packages and runs no code of the model's folder.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.base.escape import printable
from edgeprune.base.progress import say
from edgeprune.export.graph import Graph
from edgeprune.export.optimum_environment import optimum_python
from edgeprune.model.tasks import Task
from edgeprune.runtime.names import PAST

_EXPORT = """
import json, sys
from optimum.exporters.onnx import main_export
main_export(**json.loads(sys.argv[1]))
"""
# What our passes read; LayerNormalization is one operator from 17 on.
_OPSET = 17
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_TOLD, _LONGEST = 12, 300


def export_by_optimum(model_folder: Path, task: Task, path: Path, minutes: float) -> Path:
    """Write the float32 graph of a model's folder, as optimum's exporter does.

    Args:
        model_folder: configuration and safetensors as transformers 4 reads them.
        minutes: longest time that it may take.

    Returns:
        `path`.

    Raises:
        UserError: the environment is not there, the exporter fails or takes too long, or its graph
            has other inputs and outputs than the hub's.
    """
    python = optimum_python()
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        options = {
            "model_name_or_path": str(model_folder.resolve()),
            "output": folder,
            "task": f"{task.name}-with-past" if task.generates else task.name,
            "library_name": "transformers",
            "dtype": "fp32",
            "opset": _OPSET,
            "local_files_only": True,
            "trust_remote_code": False,
            "do_validation": False,  # the build compares the graph with torch itself
        }
        _run(python, options, minutes)
        written = Path(folder) / "model.onnx"
        if not written.is_file():
            raise UserError(
                "optimum's exporter wrote no model.onnx: leave export.by out, and the graph is "
                "written here."
            )
        graph = Graph.load(written)
        _check_face(graph, task)
        graph.save(path)
    return path


def _run(python: str, options: Mapping[str, object], minutes: float) -> None:
    """Call the exporter; what it prints is told where it fails."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        try:
            done = subprocess.run(
                [python, "-I", "-c", _EXPORT, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=60 * minutes,
                env={**os.environ, **offline},
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"optimum's exporter did not end within {minutes:g} minutes: raise export.minutes, "
                "or leave export.by out."
            ) from error
        if done.returncode == 0:
            return
        printed.seek(0)
        lines = [printable(line.rstrip()[:_LONGEST]) for line in printed if line.strip()]
    for line in lines[-_TOLD:]:
        say(f"      {line}")
    reason = lines[-1].strip().rstrip(".") if lines else f"it ended with {done.returncode}"
    raise UserError(
        f"optimum's exporter failed: {reason}. Leave export.by out, and the graph is written here."
    )


def _check_face(graph: Graph, task: Task) -> None:
    """Refuse a graph whose inputs and outputs are not those of files on the hub."""
    unknown = [each for each in graph.inputs if each not in _INPUTS and not each.startswith(PAST)]
    missing = [each for each in task.outputs if each not in graph.outputs]
    if unknown or missing:
        what = f"the input {unknown[0]}" if unknown else f"no output {missing[0]}"
        raise UserError(
            f"optimum's exporter wrote a graph with {what}, which clients do not know: leave "
            "export.by out, and the graph is written here."
        )
