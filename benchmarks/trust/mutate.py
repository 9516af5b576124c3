"""Mutations of files and words: small faults and hostile ones, drawn by a generator.

`of_json` and the like keep the outer form of a file, so that the fault comes to what reads the
inside; one in four goes to its bytes instead. A seeded generator makes the same fault again.
"""

import copy
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import yaml
from google.protobuf.message import Message

Mutation = Callable[[random.Random, bytes], bytes]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"), "", " ", "a", "0", "nan", "../..", "/", ".", "~", "C:\\x", "a/b",
    "\x00", "\n", "\u2028", "\ud800", "é" * 40, "x" * 5000, "{{ 7 * 7 }}", "[bold]", "%s", [], {},
    [[]], [None], {"": None}, [0] * 300, {"a": {"a": {"a": {}}}}, "bert", "llama", "int8",
)  # fmt: skip
"""Values that stand where another was meant."""
WORDS = ("", "-", "--", "-1", "0", "1", "1e400", "nan", "a", "a=b", "=", "...", "/", "%", "10%")
"""Words of a command line that may be given for anything."""
_NUMBERS = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def of_bytes(draw: random.Random, data: bytes) -> bytes:
    """One to three small faults anywhere, the beginning twice as often: headers lie there."""
    for _ in range(draw.randint(1, 3)):
        data = draw.choice(_BYTE_FAULTS)(draw, data)
    return data


def _place(draw: random.Random, data: bytes) -> int:
    end = min(len(data), 512) if draw.random() < 0.5 else len(data)
    return draw.randint(0, max(end - 1, 0))


def _flip(draw: random.Random, data: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: _place(draw, data)]


def _drop(draw: random.Random, data: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + data[at + draw.choice((1, 2, 8, 64)) :]


def _repeat(draw: random.Random, data: bytes) -> bytes:
    at = _place(draw, data)
    piece = data[at : at + draw.choice((1, 4, 32, 256))]
    return data[:at] + piece * draw.choice((2, 3, 200)) + data[at:]


def _number(draw: random.Random, data: bytes) -> bytes:
    at, wide = _place(draw, data), draw.choice((1, 2, 4, 8))
    number = draw.choice(_NUMBERS) % 2 ** (8 * wide)
    return data[:at] + number.to_bytes(wide, "little") + data[at + wide :]


def _insert(draw: random.Random, data: bytes) -> bytes:
    at = _place(draw, data)
    odd = (b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"{", b"]", b",", b"\xed\xa0\x80")
    return data[:at] + draw.choice(odd) + data[at:]


_BYTE_FAULTS = (_flip, _flip, _cut, _drop, _repeat, _number, _insert)


def of_value(draw: random.Random, value: Any) -> Any:
    """One to three faults at any depth of a value as JSON or YAML has them."""
    for _ in range(draw.randint(1, 3)):
        value = _one_fault(draw, value)
    return value


def _one_fault(draw: random.Random, value: Any) -> Any:
    places = list(_places(value))
    if not places:
        return copy.deepcopy(draw.choice(VALUES))
    container, key = draw.choice(places)
    fault = draw.randrange(6)
    if fault == 0:
        del container[key]
    elif fault == 1 and isinstance(container, dict):
        container[draw.choice([*_keys(value), "unknown", ""])] = container.pop(key)
    elif fault == 2:  # what another place holds
        other, name = draw.choice(places)
        container[key] = json.loads(json.dumps(other[name]))
    elif fault == 3 and isinstance(container[key], int | float):
        container[key] = draw.choice((-container[key], container[key] * 2**20, container[key] + 1))
    elif fault == 4:
        container[key] = [container[key]]
    else:
        container[key] = copy.deepcopy(draw.choice(VALUES))  # the next fault may be inside
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) of a value, lists by their first and last few entries."""
    found, open_ = [], [value]
    while open_:
        each = open_.pop()
        keys: Sequence[Any] = ()
        if isinstance(each, dict):
            keys = list(each)
        elif isinstance(each, list):
            keys = sorted({*range(min(len(each), 3)), *range(max(len(each) - 2, 0), len(each))})
        found += [(each, key) for key in keys]
        open_ += [each[key] for key in keys]
    return found


def _keys(value: Any) -> list[str]:
    return sorted({str(key) for container, key in _places(value) if isinstance(container, dict)})


def _sometimes_bytes(inside: Mutation) -> Mutation:
    def mutated(draw: random.Random, data: bytes) -> bytes:
        return of_bytes(draw, data) if draw.random() < 0.25 else inside(draw, data)

    return mutated


def _json(draw: random.Random, data: bytes) -> bytes:
    value = of_value(draw, json.loads(data))
    return json.dumps(value, ensure_ascii=draw.random() < 0.8).encode(errors="surrogatepass")


def _yaml(draw: random.Random, data: bytes) -> bytes:
    value = of_value(draw, yaml.safe_load(data))
    return yaml.safe_dump(value, allow_unicode=draw.random() < 0.2).encode(errors="surrogatepass")


def _lines(draw: random.Random, data: bytes) -> bytes:
    """Rows of a file of text: some are gone, doubled, or of another kind."""
    lines = data.splitlines(keepends=True)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines)) if lines else 0
        line = lines[at] if lines else b""
        odd: tuple[bytes, ...] = (
            b"", line * 2, line.rstrip(), b"\n", b"{}\n", b"[]\n", b"null\n", b'"\n', b",,,,\n",
            b'{"text": 3}\n', b'{"text": null, "label": []}\n', b'{"text": ""}\n', b"\xff\xfe\n",
            b'{"text": "' + b"w010 " * 3000 + b'"}\n', of_bytes(draw, line or b"a\n"), b"\x00\n",
        )  # fmt: skip
        lines[at : at + 1] = [draw.choice(odd)]
    return b"".join(lines)


def _safetensors(draw: random.Random, data: bytes) -> bytes:
    """Faults in the header, which stays as long as it says, or says another length."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(of_value(draw, json.loads(data[8 : 8 + size]))).encode()
    said = len(header) if draw.random() < 0.9 else draw.choice(_NUMBERS)
    return struct.pack("<Q", said) + header + data[8 + size :]


def _onnx(draw: random.Random, data: bytes) -> bytes:
    """Faults in any field of any message of a graph."""
    model = onnx.load_from_string(data)
    for _ in range(draw.randint(1, 3)):
        messages = list(_messages(model))
        message = draw.choice(messages)
        fields = [field for field, _ in message.ListFields()]
        if not fields:
            continue
        field = draw.choice(fields)
        kept = getattr(message, field.name)
        fault = draw.randrange(3)
        if fault == 0:
            message.ClearField(field.name)
        elif field.is_repeated:
            if fault == 1 and len(kept):
                del kept[draw.randrange(len(kept))]
            elif len(kept):
                kept.extend([kept[draw.randrange(len(kept))]])
        elif field.message_type is None:
            setattr(message, field.name, _other(draw, kept, field))
    try:
        return model.SerializePartialToString()
    except Exception:  # a name that is no text
        return of_bytes(draw, data)


def _messages(message: Message) -> list[Message]:
    found, open_ = [], [message]
    while open_:
        each = open_.pop()
        found.append(each)
        for field, value in each.ListFields():
            if field.message_type is not None:
                open_ += list(value) if field.is_repeated else [value]
    return found


def _other(draw: random.Random, value: Any, field: Any) -> Any:
    if isinstance(value, bytes):
        return of_bytes(draw, value)
    if isinstance(value, str):
        return draw.choice(("", "x", value + "x", "input_ids", "last_hidden_state", "é", "../x"))
    if isinstance(value, float):
        return draw.choice((0.0, -1.0, 1e30, float("nan")))
    if field.enum_type is not None:
        return draw.choice([each.number for each in field.enum_type.values])
    return draw.choice((0, 1, -1, 2, value + 1, 2**31 - 1))


of_json = _sometimes_bytes(_json)
of_yaml = _sometimes_bytes(_yaml)
of_rows = _sometimes_bytes(_lines)
of_safetensors = _sometimes_bytes(_safetensors)
of_onnx = _sometimes_bytes(_onnx)
