"""Stored tensors of a graph: read when they are asked for, written one at a time.

A tensor is onnx-ir's: an array, a lazy one that is read from its source on demand, or a place in a
file. Whatever it is, writing holds one tensor in memory, and not the model.
"""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto

Tensors = Mapping[str, ir.TensorProtocol]

# Beyond this a protobuf cannot hold the weights, which then go to a separate file.
_PROTOBUF_LIMIT = 1_900_000_000
# What the runtime reads in place must begin at a page.
_PAGE = 4096
# Smaller tensors stay in the graph's own file: the runtime wants to see sizes and axes.
SMALL_BYTES = 4096
# Fields of ONNX's messages that hold other messages or bytes, by their numbers in onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = (field << 3 | 2 for field in (7, 5, 9))


def values_of(tensor: ir.TensorProtocol) -> np.ndarray:
    """A tensor's values, in memory as long as this array is: onnx-ir's own would stay mapped as
    long as the tensor."""
    read = copy.copy(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor
    return np.asarray(read.numpy())


def to_proto(name: str, tensor: ir.TensorProtocol) -> TensorProto:
    """A tensor with its values, under a name."""
    proto = _described(name, tensor)
    proto.raw_data = tensor.tobytes()
    return proto


def bytes_of(tensors: Tensors) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())


def fits(tensors: Tensors) -> bool:
    """Whether one file holds a model with these tensors."""
    return bytes_of(tensors) < _PROTOBUF_LIMIT


def write_model(model: onnx.ModelProto, tensors: Tensors, path: Path) -> list[Path]:
    """Write a model without tensors, and its tensors, as one file; beyond 2 GB the tensors go to a
    second one beside it, `path` with "_data" at its end. A file at either place is replaced.

    Returns:
        The files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(path.name + "_data")
    if fits(tensors):
        with _aside(path).open("wb") as file:
            _write_whole(model, tensors, file)
        written = [path]
    else:
        with _aside(data).open("wb") as file:
            for name, tensor in tensors.items():
                offset = _append(tensor, file)
                model.graph.initializer.append(_in_file(name, tensor, data.name, offset))
        _aside(path).write_bytes(model.SerializeToString())
        written = [path, data]
    data.unlink(missing_ok=True)
    for place in written:
        _aside(place).replace(place)
    return written


def _aside(path: Path) -> Path:
    """The path at which a file is written before it takes its place."""
    return path.with_name(f".{path.name}.part")


class Shelf:
    """Large tensors in one file, which sessions read in place instead of a copy each."""

    def __init__(self, file: Path | None = None) -> None:
        """`file`: where it is written; None: a temporary one, which lives as long as the shelf."""
        if file is None:
            folder = Path(tempfile.mkdtemp(prefix="edgeprune-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            file = folder / "tensors"
        self.folder = file.parent
        self._file = file
        self._file.touch()

    def put(self, tensors: dict[str, ir.TensorProtocol]) -> None:
        """Move the large ones of these tensors here: each entry becomes its place in the file."""
        with self._file.open("ab") as file:
            for name, tensor in tensors.items():
                if tensor.nbytes >= SMALL_BYTES and self._place(tensor) is None:
                    tensors[name] = ir.ExternalTensor(
                        self._file.name,
                        _append(tensor, file),
                        tensor.nbytes,
                        tensor.dtype,
                        shape=ir.Shape(tensor.shape.numpy()),
                        name=name,
                        base_dir=self.folder,
                    )

    def write(self, model: onnx.ModelProto, tensors: Tensors, file: str = "model.onnx") -> Path:
        """Write a model without tensors beside the file, to which those of its tensors refer that
        were `put` here; return its path, which the next model of that name takes."""
        for name, tensor in tensors.items():
            offset = self._place(tensor)
            model.graph.initializer.append(
                to_proto(name, tensor)
                if offset is None
                else _in_file(name, tensor, self._file.name, offset)
            )
        path = self.folder / file
        path.write_bytes(model.SerializeToString())
        return path

    def _place(self, tensor: ir.TensorProtocol) -> int | None:
        """The offset of a tensor in the file; None where it is not there."""
        if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) == self._file:
            return tensor.offset
        return None


def _described(name: str, tensor: ir.TensorProtocol) -> TensorProto:
    """Name, type and sizes of a tensor, without its values."""
    return TensorProto(name=name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())


def _in_file(name: str, tensor: ir.TensorProtocol, location: str, offset: int) -> TensorProto:
    """A tensor whose values stand in another file."""
    proto = _described(name, tensor)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", tensor.nbytes)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def _append(tensor: ir.TensorProtocol, file: BinaryIO) -> int:
    """Write a tensor at the next page of a file; return where that begins."""
    file.write(b"\0" * (-file.tell() % _PAGE))
    offset = file.tell()
    _write(tensor, file)
    return offset


def _write(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """A tensor's bytes, which must be as many as it says: what was written tells their number."""
    start = file.tell()
    tensor.tofile(file)  # type: ignore[attr-defined]
    if file.tell() - start != tensor.nbytes:
        raise ValueError(
            f"{tensor.name} has {file.tell() - start} bytes where {tensor.nbytes} were announced"
        )


def _write_whole(model: onnx.ModelProto, tensors: Tensors, file: BinaryIO) -> None:
    """One protobuf, whose sizes are known before any tensor is read.

    A field of bytes or of another message is its number, the length of its content, and that.
    """
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    graph = model.graph.SerializeToString()
    heads = {}
    for name, tensor in tensors.items():
        head = _described(name, tensor).SerializeToString()
        head += bytes([_RAW_DATA]) + _varint(tensor.nbytes)
        heads[name] = bytes([_INITIALIZER]) + _varint(len(head) + tensor.nbytes) + head
    size = len(graph) + sum(len(head) for head in heads.values()) + bytes_of(tensors)
    file.write(rest.SerializeToString() + bytes([_GRAPH]) + _varint(size) + graph)
    for name, tensor in tensors.items():
        file.write(heads[name])
        _write(tensor, file)


def _varint(number: int) -> bytes:
    """A number in protobuf's groups of seven bits, the lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
