"""Read the outline of an ONNX file without onnx and without its weights.

An ONNX file is one protobuf message. `read_outline` walks it through a memory map and follows only
the fields that name inputs, outputs, operators and external data, so that a bundle of any size
opens at once and in little memory. Field numbers are those of onnx.proto.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.base.errors import UserError

# For each kind of message, the fields of the child messages that matter here.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


@dataclass
class Outline:
    """The names in an ONNX file; ranks are None if the file states no shape.

    `operators`, `attributes` and `domains` are those of the graph's own nodes; `functions` are the
    operators in the bodies of model-local functions.
    """

    inputs: dict[str, int | None] = field(default_factory=dict)
    outputs: dict[str, int | None] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    attributes: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    functions: Counter[str] = field(default_factory=Counter)
    bits: set[int] = field(default_factory=set)
    """The `bits` attributes of operators on weights in groups."""
    external_files: set[str] = field(default_factory=set)


def read_outline(path: Path) -> Outline:
    """The outline of the ONNX file at `path`.

    Raises:
        UserError: the file is empty, truncated, or not an ONNX file.
    """
    outline = Outline()
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            _walk(data, 0, len(data), "model", outline)
    except (ValueError, IndexError, RecursionError, UnicodeDecodeError):
        raise UserError(
            f"{path} is not a whole ONNX file: it is empty, truncated or of another format."
        ) from None
    if not outline.outputs:
        raise UserError(f"{path} is not an ONNX model: it has no graph with outputs.")
    return outline


def _walk(data: mmap.mmap, start: int, end: int, kind: str, outline: Outline) -> None:
    for number, first, last in _fields(data, start, end):
        if kind == "graph" and number in (11, 12):
            name, rank = _value_info(data, first, last)
            # Inner graphs use the same fields; their names go to an outline that is dropped.
            (outline.inputs if number == 11 else outline.outputs)[name] = rank
        elif kind == "node" and number == 4:
            outline.operators[data[first:last].decode()] += 1
        elif kind == "attribute" and number == 1:
            outline.attributes.add(data[first:last].decode())
        elif kind == "node" and number == 7 and last > first:
            outline.domains.add(data[first:last].decode())
        elif kind == "tensor" and number == 13:
            entry = {n: data[a:b] for n, a, b in _fields(data, first, last)}
            if entry.get(1) == b"location":
                outline.external_files.add(entry.get(2, b"").decode())
        elif child := _CHILDREN.get(kind, {}).get(number):
            inner = outline
            if child == "attribute":
                outline.bits |= _bits(data, first, last)
            if kind == "attribute" and child == "graph":
                inner = replace(outline, inputs={}, outputs={})
            elif child == "function":
                inner = replace(
                    outline, operators=outline.functions, attributes=set(), domains=set()
                )
            _walk(data, first, last, child, inner)


def _bits(data: mmap.mmap, start: int, end: int) -> set[int]:
    """The value of an AttributeProto (name = 1, i = 3), if it is named bits."""
    numbers: dict[int, int] = {}
    names = [data[a:b] for n, a, b in _fields(data, start, end, numbers) if n == 1]
    return {numbers[3]} if names == [b"bits"] and 3 in numbers else set()


def _value_info(data: mmap.mmap, start: int, end: int) -> tuple[str, int | None]:
    """Name and rank of a ValueInfoProto: name = 1, type = 2 > tensor_type = 1 > shape = 2."""
    name, rank = "", None
    for number, first, last in _fields(data, start, end):
        if number == 1:
            name = data[first:last].decode()
        elif number == 2:
            for n, a, b in _fields(data, first, last):
                if n != 1:
                    continue
                for m, c, d in _fields(data, a, b):
                    if m == 2:
                        rank = sum(1 for k, _, _ in _fields(data, c, d) if k == 1)
    return name, rank


def _fields(
    data: mmap.mmap, start: int, end: int, numbers: dict[int, int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """(field number, first byte, end) of each length-delimited field between two offsets.

    numbers: filled with the values of the fields that are plain numbers.
    """
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at, end)
            if numbers is not None:
                numbers[number] = value
        elif wire == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError("a field is longer than its message")
            yield number, at, at + length
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if not number or at > end:
            raise ValueError("a field is longer than its message")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError("a number is cut short")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
