"""Linears that a sentence encoder's pooled vector goes through, as sentence-transformers keeps
them: a folder each with its settings and its weights (Dense)."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder, read_object
from edgeprune.model.pooling import dense_paths
from edgeprune.model.safetensors_header import read_header

_WEIGHTS, _VECTOR = "model.safetensors", "sentence_embedding"
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_LINEAR = ("torch.nn.modules.linear.Identity", "torch.nn.Identity")
"""Names of the activation that changes nothing."""


@dataclass(frozen=True)
class Projection:
    """x @ weight.T + bias."""

    weight: np.ndarray
    """(outputs, inputs), float32."""
    bias: np.ndarray
    """(outputs,); zeros where there is none."""


def read_projections(folder: Path, width: int | None = None) -> tuple[Projection, ...]:
    """The linears after the pooling of the encoder in `folder`, in order.

    Args:
        width: of the encoder's states, which the first has to read.

    Raises:
        UserError: one is not whole, does more than multiply, or does not fit what is before it.
    """
    found = []
    for path in dense_paths(folder):
        projection = _read(folder, path)
        outputs, inputs = projection.weight.shape
        if width is not None and inputs != width:
            raise UserError(
                f"{folder / path} reads vectors of {inputs} values, and what is before it gives "
                f"{width}: they are not of one model."
            )
        width = outputs
        found.append(projection)
    return tuple(found)


def _read(folder: Path, path: str) -> Projection:
    place = folder / path
    file = place / _WEIGHTS
    if leaves_folder(path) or not fnmatchcase(path, "*_Dense") or not file.is_file():
        raise UserError(
            f"{folder / 'modules.json'} names {path!r} for a linear, which is no folder like "
            f"2_Dense with {_WEIGHTS} in it: save the model again with sentence-transformers."
        )
    config = read_object(place / "config.json")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    reads = config.get("module_input_name", _VECTOR)
    writes = config.get("module_output_name") or reads
    apart = (reads, writes) != (_VECTOR, _VECTOR)
    if activation not in _LINEAR or config.get("use_residual") or apart:
        raise UserError(
            f"{place} is more than a linear of the pooled vector (activation_function "
            f"{activation}, use_residual {bool(config.get('use_residual'))}, from {reads} to "
            f"{writes}), which edgeprune does not run."
        )
    tensors = {name: _tensor(file, entry) for name, entry in read_header(file).items()}
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.ndim != 2 or (bias is None) == bool(config.get("bias", True)):
        raise UserError(f"{file} does not hold the linear that its config.json speaks of.")
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    if bias.shape != weight.shape[:1] or not all(np.isfinite(x).all() for x in (weight, bias)):
        raise UserError(f"{file} does not hold finite weights of one linear.")
    return Projection(weight, bias)


def _tensor(file: Path, entry: dict[str, object]) -> np.ndarray:
    kind = str(entry["dtype"])
    if kind not in _FLOATS:
        raise UserError(f"{file} holds weights as {kind}, which are not read: save them as F32.")
    with file.open("rb") as opened:
        opened.seek(int(str(entry["offset"])))
        raw = opened.read(int(str(entry["bytes"])))
    shape = entry["shape"]
    assert isinstance(shape, list)
    values = np.frombuffer(raw, _FLOATS[kind]).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
