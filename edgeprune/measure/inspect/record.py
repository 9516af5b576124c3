"""Records of a model's folder, and of this machine."""

from typing import Any, ClassVar, Literal

from edgeprune.base.record import Many, Record


class Layer(Record):
    """One linear or embedding: its shape ([in, out], or [rows, size]) and how it is stored."""

    writes_defaults: ClassVar[bool] = True

    name: str
    kind: Literal["linear", "embedding"]
    operator: str
    shape: Many[int]
    bits: int
    bytes: int
    """Of the weight alone, without scales."""
    group: int | None = None
    """Of quantization along a row, where there are groups."""
    block: str | None = None
    """Inputs x outputs, where only blocks that are not zero are stored."""
    sparsity: float | None = None
    """The share of the blocks that are zero."""


class Kernels(Record):
    """The operator library: where it lies, what to do where it is missing, and the instruction set
    that will run."""

    library: str | None
    missing: str | None
    instruction_sets: dict[str, bool] | None = None
    """Those that the library has, the best first, with whether this processor has them."""
    chosen: str | None
    wanted: str | None = None


class OnnxFolder(Record):
    """A folder with an ONNX model."""

    kind: Literal["onnx"]
    folder: str
    task: str
    max_length: int | None
    opsets: dict[str, int]
    operators: dict[str, int]
    """The count of each, the most common first."""
    kernels: Kernels | None
    """The library for the file's sparse linears here; None where it has none."""
    layers: Many[Layer]
    bytes: dict[str, int]
    """By what they are of."""
    model_bytes: int
    variant: str | None = None
    """The name of the graph that is described, where the manifest names any."""
    manifest: dict[str, Any] | None


class Tensor(Record):
    """A tensor of a safetensors file."""

    shape: Many[int]
    dtype: str
    bytes: int


class SafetensorsFolder(Record):
    """A Hugging Face folder of safetensors."""

    kind: Literal["safetensors"]
    folder: str
    architectures: Any
    tensors: dict[str, Tensor]
    parameters: int
    bytes: dict[str, int]
    """By type."""
    model_bytes: int
