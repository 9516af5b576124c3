"""Torch to ONNX: the one place that knows optimum.

The graph is optimum's own, float32, with its names for inputs and outputs, so that any client of
such files takes it. Layers may differ in size. Nothing is optimized here; that is rewrite's work.
"""

import json
from pathlib import Path

import torch

from edgeprune.base.errors import UserError
from edgeprune.base.quiet import quiet
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import load_model
from edgeprune.model.tasks import TASKS

# LayerNormalization is one operator from 17 on; ONNX Runtime 1.17 reads up to 20.
OPSET = 17


def export_onnx(model: Model, folder: Path) -> Path:
    """Write a model's graph in float32 as `folder`/model.onnx, decoders with their cache.

    Beyond 2 GB the weights stand beside it in model.onnx_data.

    Returns:
        The path of the graph.

    Raises:
        UserError: optimum has no exporter for this kind of model.
    """
    with quiet():
        from optimum.exporters.onnx import export
        from optimum.exporters.tasks import TasksManager

        task = TASKS[model.task]
        try:
            constructor = TasksManager.get_exporter_config_constructor(
                exporter="onnx",
                model=model.module,
                task=task.exported,
                library_name="transformers",
            )
        except (KeyError, ValueError) as error:
            raise UserError(_refusal(error)) from error
        config = model.module.config
        cached = {"use_past": True, "use_past_in_inputs": True}
        exporter = constructor(config, **(cached if task.generates else {}))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        try:
            with torch.no_grad():
                export(model.module, exporter, path, opset=OPSET, do_constant_folding=True)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(_refusal(error)) from error
    return path


def _refusal(error: Exception) -> str:
    """The first sentence of optimum's; what follows is a list of all that it knows."""
    reason = str(error.args[0] if error.args else error).strip() or repr(error)
    return f"optimum cannot export this model to ONNX: {reason.splitlines()[0].split('. ')[0]}."


def export_plain(model_folder: Path, output_folder: Path) -> Path:
    """Export a model folder untouched, as a folder that a client runs: the reference of every
    comparison.

    Returns:
        The path of the graph, onnx/model.onnx in `output_folder`.
    """
    model = load_model(model_folder)
    copy_assets(model_folder, output_folder)
    import_tokenizer(open_checkpoint(str(model_folder)), output_folder)
    (output_folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True))
    return export_onnx(model, output_folder / "onnx")
