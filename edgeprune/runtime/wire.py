"""Read protobuf's wire format into plain classes, from files that may be hostile.

A schema says of each class which field of a message goes into which of its attributes; what it does
not name is stepped over. As with protobuf itself, a number or text that comes again replaces the
one before, and a single message that comes again is merged into it. Depth, lengths and the count of
what is kept are bounded, and what is skipped costs nothing, however long it is.
"""

import mmap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

Buffer = bytes | mmap.mmap
Message = TypeVar("Message")

_DEEPEST = 100
"""Messages within each other: protobuf's own bound."""
_MOST = 1 << 22
"""Parts that are kept of a file: graphs of gigabytes have some hundred thousand."""
_LAST_NUMBER = (1 << 29) - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message and the attribute that it goes into.

    Attributes of fields that come `many` times are lists.
    """

    attribute: str
    kind: Literal["int32", "int64", "text"] | type
    many: bool = False
    instead: tuple[str, ...] = ()
    """Attributes that become None by it: the others of a choice."""


Schema = Mapping[type, Mapping[int, Field]]


def read_message(data: Buffer, made: Message, schema: Schema) -> Message:
    """Fill a message from all the bytes of a buffer.

    Raises:
        ValueError: they are no such message, or beyond a bound.
    """
    _Reader(data, schema).fill(made, 0, len(data), 0)
    return made


class _Reader:
    def __init__(self, data: Buffer, schema: Schema) -> None:
        self._data = data
        self._schema = schema
        self._left = _MOST

    def fill(self, made: Any, start: int, end: int, depth: int) -> None:
        """Read the message between two offsets."""
        if depth > _DEEPEST:
            raise ValueError(f"messages lie more than {_DEEPEST} deep in each other")
        known = self._schema[type(made)]
        for number, wire, first, last in _fields(self._data, start, end):
            field = known.get(number)
            if field is None:
                continue
            for value in self._values(made, field, wire, first, last, depth):
                self._left -= 1
                if not self._left:
                    raise ValueError(f"it has more than {_MOST:,} parts")
                for other in field.instead:
                    setattr(made, other, None)
                if field.many:
                    getattr(made, field.attribute).append(value)
                else:
                    setattr(made, field.attribute, value)

    def _values(
        self, made: Any, field: Field, wire: int, first: int, last: int, depth: int
    ) -> Iterator[Any]:
        """The values of a field; none where it is of another wire type than it should be, which
        makes it unknown."""
        if field.kind == "int64" or field.kind == "int32":
            bits = int(field.kind[3:])
            if wire == _VARINT:
                yield _signed(first, bits)
            elif wire == _BYTES and field.many:  # packed
                while first < last:
                    value, first = _varint(self._data, first, last)
                    yield _signed(value, bits)
        elif wire != _BYTES:
            return
        elif field.kind == "text":
            yield self._data[first:last].decode()
        else:
            assert isinstance(field.kind, type)
            before = None if field.many else getattr(made, field.attribute)
            value = field.kind() if before is None else before
            self.fill(value, first, last, depth + 1)
            yield value


def _signed(value: int, bits: int) -> int:
    """The lowest bits as two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, first, last) of each field between two offsets: first is the value of a
    varint, else the field's first byte, and last the end of its bytes."""
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if not 0 < number <= _LAST_NUMBER:
            raise ValueError(f"a field has the number {number}")
        if wire == _VARINT:
            first, at = _varint(data, at, end)
        elif wire == _BYTES:
            length, first = _varint(data, at, end)
            at = first + length
        elif wire in (_FIXED64, _FIXED32):
            first, at = at, at + (8 if wire == _FIXED64 else 4)
        else:  # groups, which ONNX has none of, and what is none
            raise ValueError(f"a field has the wire type {wire}")
        if at > end:
            raise ValueError("a field is longer than its message")
        yield number, wire, first, at


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The number at an offset, of up to ten bytes, and the offset behind it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        if byte < 128:
            return value | byte << shift, at
        value |= (byte & 127) << shift
        shift += 7
    raise ValueError("a number is cut short")
