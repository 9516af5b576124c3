"""Modules that a sentence encoder's pooled vector goes through, as sentence-transformers keeps
them: a folder each with its settings and its weights (Dense, LayerNorm), or by name (Normalize)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder, read_object
from edgeprune.model.modules import MODULES, WITH_WEIGHTS, Module, read_modules
from edgeprune.model.safetensors_header import read_header

_WEIGHTS, _VECTOR = "model.safetensors", "sentence_embedding"
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_DEFAULT = "torch.nn.modules.activation.Tanh"
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    _DEFAULT: "tanh",
    "torch.nn.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.SiLU": "silu",
}
"""The names that are known of activations without settings, and what each is called here."""
_LEAST = 1e-12
"""The least length that a vector is divided by, as torch has it."""


@dataclass(frozen=True)
class Projection:
    """activation(x @ weight.T + bias)."""

    weight: np.ndarray
    """(outputs, inputs), float32."""
    bias: np.ndarray
    """(outputs,); zeros where there is none."""
    activation: str = "identity"


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""

    weight: np.ndarray
    bias: np.ndarray
    epsilon: float = 1e-5
    """torch's; no file says another."""


@dataclass(frozen=True)
class UnitLength:
    """x / |x|."""


Step = Projection | LayerNorm | UnitLength


def read_steps(folder: Path, width: int | None = None) -> tuple[Step, ...]:
    """Read the modules that the pooled vector of the encoder in `folder` goes through, in order.

    Args:
        width: of the pooled vector, which the first has to read.

    Raises:
        UserError: one is not whole, does what is not known here, or does not fit what is before it.
    """
    steps: list[Step] = []
    for module in read_modules(folder):
        if module.kind not in _READERS:
            continue
        step = _READERS[module.kind](folder, module)
        steps.append(step)
        if isinstance(step, UnitLength):
            continue
        inputs = step.weight.shape[-1]
        if width is not None and inputs != width:
            raise UserError(
                f"{folder / module.path} reads vectors of {inputs} values, and what is before it "
                f"gives {width}: they are not of one model."
            )
        width = step.weight.shape[0]
    return tuple(steps)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., size] scaled to length 1; a zero vector stays zero."""
    scaled: np.ndarray = vectors / np.maximum(
        np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST
    )
    return scaled


def apply(steps: Sequence[Step], vectors: np.ndarray) -> np.ndarray:
    """Pooled vectors [texts, width] after the steps."""
    for step in steps:
        if isinstance(step, UnitLength):
            vectors = unit_length(vectors)
        elif isinstance(step, LayerNorm):
            centred = vectors - vectors.mean(axis=-1, keepdims=True)
            variance = np.square(centred).mean(axis=-1, keepdims=True)
            vectors = centred / np.sqrt(variance + np.float32(step.epsilon))
            vectors = vectors * step.weight + step.bias
        else:
            vectors = _ACTIVATE[step.activation](vectors @ step.weight.T + step.bias)
    return vectors


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # By tanh, whose halves do not overflow.
    return np.asarray((1 + np.tanh(x / 2)) / 2, x.dtype)


_ACTIVATE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
}


def _read_dense(folder: Path, module: Module) -> Projection:
    place, file = _file(folder, module)
    config = read_object(place / "config.json")
    activation = str(config.get("activation_function", _DEFAULT))
    reads = config.get("module_input_name", _VECTOR)
    writes = config.get("module_output_name") or reads
    apart = (reads, writes) != (_VECTOR, _VECTOR)
    if activation not in _ACTIVATIONS or config.get("use_residual") or apart:
        raise UserError(
            f"{place} (Dense) is more than a linear of the pooled vector and an activation that is "
            f"known here (activation_function {activation}, use_residual "
            f"{bool(config.get('use_residual'))}, from {reads} to {writes}), which edgeprune does "
            "not run."
        )
    tensors = _tensors(file)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.ndim != 2 or (bias is None) == bool(config.get("bias", True)):
        raise UserError(f"{file} does not hold the linear that its config.json speaks of.")
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    _check(file, weight, bias, len(weight))
    return Projection(weight, bias, _ACTIVATIONS[activation])


def _read_norm(folder: Path, module: Module) -> LayerNorm:
    _, file = _file(folder, module)
    tensors = _tensors(file)
    weight, bias = tensors.get("norm.weight"), tensors.get("norm.bias")
    if weight is None or bias is None or weight.ndim != 1:
        raise UserError(f"{file} does not hold a layer norm's weight and bias.")
    _check(file, weight, bias, len(weight))
    return LayerNorm(weight, bias)


_READERS: Mapping[str, Callable[[Path, Module], Step]] = {
    "Dense": _read_dense,
    "LayerNorm": _read_norm,
    "Normalize": lambda folder, module: UnitLength(),
}


def _file(folder: Path, module: Module) -> tuple[Path, Path]:
    place = folder / module.path
    file = place / _WEIGHTS
    known = any(fnmatchcase(module.path, f"*_{kind}") for kind in WITH_WEIGHTS)
    if leaves_folder(module.path) or not known or not file.is_file():
        raise UserError(
            f"{folder / MODULES} names {module.path!r} for its {module.kind} module, which is no "
            f"folder like 2_{module.kind} with {_WEIGHTS} in it: save the model again with "
            "sentence-transformers."
        )
    return place, file


def _check(file: Path, weight: np.ndarray, bias: np.ndarray, width: int) -> None:
    if bias.shape != (width,) or not all(np.isfinite(x).all() for x in (weight, bias)):
        raise UserError(f"{file} does not hold finite weights of one module.")


def _tensors(file: Path) -> dict[str, np.ndarray]:
    return {name: _tensor(file, entry) for name, entry in read_header(file).items()}


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
