"""The stages between training and measuring: load, original, quantize, export, rewrite.

Each takes the build, the folder of the stage before and the folder to write, and returns what it
did. Pruning, cutting, recovery and measurement have rooms of their own.
"""

import shutil
from pathlib import Path
from typing import Any

from edgeprune.compress.context import Build
from edgeprune.compress.quantize.massive import refuse_drift
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.rewrite.run import rewrite as rewrite_graph
from edgeprune.export.trace import export_onnx, export_plain
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.store import load_masks, load_model, save_model
from edgeprune.targets import find

ONNX = "onnx"
# What each pass of rewriting is compared on: a decoder's logits for a token take 0.2 MB and more.
_CHECKED_BATCHES, _CHECKED_TOKENS = 2, 512


def load(build: Build, source: Path, target: Path, settings: None) -> dict[str, Any]:
    """Read the model that the user named; write it in float32 with its tokenizer."""
    model = import_checkpoint(build.checkpoint)
    import_tokenizer(build.checkpoint, target)
    save_model(model, target)
    return {
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "heads": [len(heads) for heads in model.heads],
        "channels": [len(channels) for channels in model.channels],
    }


def original(build: Build, source: Path, target: Path, settings: None) -> dict[str, Any]:
    """Export the untouched model plainly to float32 ONNX: the reference of every comparison."""
    path = export_plain(build.folders["load"], target)
    return {"bytes": path.stat().st_size}


def quantize(
    build: Build, source: Path, target: Path, settings: QuantizeSettings
) -> dict[str, Any]:
    """Plan formats, compute every stored value, leave the model at those values.

    Raises:
        UserError: it cannot be quantized so, or would be spoilt.
    """
    model = load_model(source)
    batches = [tensors(batch) for batch in build.calibration(settings.calibration_samples)]
    target_kind = find(build.recipe.target)
    result = quantize_model(model, batches, settings, target_kind, load_masks(source), build.seed)
    refuse_drift(result.activation_drift, settings)
    save_model(model, target)
    result.save(target)
    return result.summary()


def export(build: Build, source: Path, target: Path, settings: None) -> dict[str, Any]:
    """Write the model's graph in float32, as a folder that a client runs."""
    _copy_client_files(build, source, target)
    path = export_onnx(load_model(source), target / ONNX)
    return {"bytes": path.stat().st_size}


def rewrite(build: Build, source: Path, target: Path, settings: None) -> dict[str, Any]:
    """Lower the plan and rewrite the graph; the folder that results is what a bundle holds."""
    model_folder = build.folders["export_input"]
    quantized = Quantized.load(build.folders["quantize"]) if "quantize" in build.folders else None
    batches = []
    for batch in build.some(_CHECKED_BATCHES):
        rows = max(1, _CHECKED_TOKENS // batch.input_ids.shape[1])
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        batches.append({name: values[:rows] for name, values in feed.items()})
    _copy_client_files(build, model_folder, target)
    (target / ONNX).mkdir(parents=True, exist_ok=True)
    reports = rewrite_graph(
        source / ONNX / "model.onnx",
        target / ONNX / "model.onnx",
        open_checkpoint(str(model_folder)).anatomy,
        quantized,
        batches,
        find(build.recipe.target),
        build.recipe.quantize.cache_bits if build.recipe.quantize else None,
    )
    return {"passes": [report.to_json() for report in reports]}


def _copy_client_files(build: Build, model_folder: Path, target: Path) -> None:
    """Tokenizer and configuration beside a graph of the model in `model_folder`."""
    copy_assets(build.reference, target)
    # Clients size a decoder's cache by the layers that are left.
    shutil.copyfile(model_folder / "config.json", target / "config.json")
