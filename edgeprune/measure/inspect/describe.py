"""The contents of a bundle, an ONNX folder, or a Hugging Face folder of safetensors."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.kernels.formats import DOMAIN
from edgeprune.kernels.library import system_facts
from edgeprune.measure.graph import read_ordered
from edgeprune.measure.inspect.layers import BrokenNode, stored_bytes, stored_layers
from edgeprune.measure.inspect.record import (
    Kernels,
    OnnxFolder,
    SafetensorsFolder,
    Tensor,
)
from edgeprune.model.safetensors_header import read_header
from edgeprune.runtime.bundle import MANIFEST, Bundle

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def describe(folder: str | Path, variant: str | None = None) -> OnnxFolder | SafetensorsFolder:
    """Describe the model in a folder.

    Args:
        variant: the name of one of a bundle's graphs; None: the one that this processor runs
            fastest.

    Raises:
        UserError: there is no model in the folder, it is damaged, or its weights are pickled.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file: name the folder that it lies in.")
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    if (folder / "edgeprune.json").exists() or any(
        (folder / place).is_file() for place in ("onnx/model.onnx", "model.onnx")
    ):
        return _describe_onnx(folder, variant)
    if variant is not None:
        raise UserError(f"{folder} is no bundle and has no variants: leave --variant out.")
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        return _describe_safetensors(folder, shards)
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder} holds only pickled weights ({', '.join(pickled)}), which can run any "
            f"program when they are read: refused. Save the model as safetensors."
        )
    raise UserError(f"{folder} holds no model: neither model.onnx nor *.safetensors.")


def _describe_onnx(folder: Path, variant: str | None) -> OnnxFolder:
    bundle = Bundle.open(folder, variant)
    bundle.verify()
    _check_manifest(bundle)
    model = read_ordered(bundle.model_path)
    try:
        layers = stored_layers(model.graph)
        in_graph = stored_bytes(model.graph)
    except BrokenNode as error:
        raise UserError(f"{bundle.model_path} is damaged: {error}.") from None
    by_kind: Counter[str] = Counter()
    for layer in layers:
        blocks = f", in blocks of {layer.block}" if layer.block else ""
        by_kind[f"{layer.kind}s, {layer.bits} bit{blocks}"] += layer.bytes
    by_kind["scales, biases, norms and constants"] = in_graph - by_kind.total()
    by_kind["graph"] = bundle.model_bytes - in_graph
    return OnnxFolder(
        kind="onnx",
        folder=str(folder),
        task=bundle.task,
        max_length=bundle.max_length,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        operators=dict(bundle.outline.operators.most_common()),
        kernels=_kernels(bundle),
        layers=tuple(layers),
        bytes=dict(by_kind),
        model_bytes=bundle.model_bytes,
        variant=bundle.variant or None,
        manifest=bundle.manifest or None,
    )


def _check_manifest(bundle: Bundle) -> None:
    """Refuse a manifest that is not plain JSON, as with NaN, or whose stages are not a list."""
    why = ""
    try:
        json.dumps(bundle.manifest, allow_nan=False)
    except ValueError:
        why = "it holds NaN or infinity"
    if not isinstance(bundle.manifest.get("stages", []), list):
        why = "its stages are not a list"
    if why:
        raise UserError(
            f"{bundle.folder / MANIFEST} is damaged: {why}; copy or build the bundle again."
        )


def _kernels(bundle: Bundle) -> Kernels | None:
    """The library for the file's sparse linears here; None where it has none."""
    if DOMAIN not in bundle.outline.domains:
        return None
    facts = system_facts()
    return Kernels(library=facts["library"], missing=facts["missing"], chosen=facts["chosen"])


def _describe_safetensors(folder: Path, shards: Iterable[Path]) -> SafetensorsFolder:
    tensors = {}
    for shard in shards:
        for name, entry in read_header(shard).items():
            tensors[name] = Tensor.model_validate(entry)
    config = Bundle(folder, {}).read_json("config.json") or {}
    by_type: Counter[str] = Counter()
    for tensor in tensors.values():
        by_type[tensor.dtype] += tensor.bytes
    return SafetensorsFolder(
        kind="safetensors",
        folder=str(folder),
        architectures=config.get("architectures"),
        tensors=tensors,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        bytes=dict(by_type.most_common()),
        model_bytes=by_type.total(),
    )
