"""The reader of graphs beside onnx's own: what it takes it reads as onnx does."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    answerer_folder,
    classifier_folder,
    decoder_folder,
    encoder_folder,
    filler_folder,
    int4_folder,
    tagger_folder,
)

from edgeprune.base.errors import UserError
from edgeprune.runtime import onnx_graph, wire
from edgeprune.runtime.onnx_graph import TENSOR_BITS, Model, Value, parse_graph, read_graph
from edgeprune.runtime.wire import Field

FIRST = sorted((Path(__file__).parents[1] / "fixtures" / "first_release").rglob("*.onnx"))
FOLDERS: list[Callable[[Path], Path]] = [
    encoder_folder,
    classifier_folder,
    tagger_folder,
    answerer_folder,
    filler_folder,
    decoder_folder,
    int4_folder,
]
NAMES = {
    (onnx_graph.Type, "tensor"): "tensor_type",
    (onnx_graph.Dimension, "size"): "dim_value",
    (onnx_graph.Dimension, "name"): "dim_param",
}
"""What a field is called in onnx, where that differs."""
ATTRIBUTES = onnx.AttributeProto.AttributeType.values()
"""Types of attributes; protobuf leaves out what is none, which is no whole number here either."""
CHOICES = {onnx_graph.Type, onnx_graph.Dimension}


def whole() -> onnx.ModelProto:
    """A model with everything that is read: branches, sparse and external tensors, functions, and
    types that are none of a tensor's."""
    helper, kinds = onnx.helper, onnx.TensorProto
    values = helper.make_tensor("values", kinds.FLOAT, [1], [2.0])
    places = helper.make_tensor("places", kinds.INT64, [1], [3])
    sparse = helper.make_sparse_tensor(values, places, [2, 2])
    outside = helper.make_tensor("outside", kinds.INT4, [4, 4], [1] * 16)
    outside.data_location = kinds.EXTERNAL
    outside.external_data.add(key="location", value="deep/data.bin")
    outside.external_data.add(key="offset", value="4096")
    shaped = helper.make_tensor_value_info("x", kinds.FLOAT, ["rows", 3, None])
    bare = helper.make_tensor_value_info("bare", kinds.FLOAT, None)
    listed = helper.make_tensor_sequence_value_info("listed", kinds.FLOAT, ["n"])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], sparse_value=sparse)],
        "branch",
        [],
        [bare],
        [outside],
    )
    branches = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    constant = helper.make_node("Constant", [], ["d"], "/constant", value=values)
    body = helper.make_node("Op", ["d"], ["e"], domain="own", many=[values, places], bits=-4)
    both = helper.make_node("Both", ["d"], ["f"], domain="own", graphs=[branch, branch])
    graph = helper.make_graph(
        [branches, constant, body, both], "graph", [shaped, listed], [bare], [values, outside]
    )
    graph.sparse_initializer.append(sparse)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 3)]
    function = helper.make_function("own", "Op", ["a"], ["b"], [constant, branches], opsets)
    return helper.make_model(graph, functions=[function], opset_imports=opsets)


WHOLE = whole().SerializeToString()


def compared(ours: Any, theirs: Any, name: str = "model") -> None:
    """Every field that is read, of every message."""
    for field in onnx_graph._SCHEMA[type(ours)].values():
        if field.attribute == "other":
            continue
        there = NAMES.get((type(ours), field.attribute), field.attribute)
        mine, other = getattr(ours, field.attribute), getattr(theirs, there)
        place = f"{name}.{field.attribute}"
        if field.many:
            assert len(mine) == len(other), place
            pairs = list(zip(mine, other, strict=True))
        elif mine is None:
            assert not theirs.HasField(there), place
            continue
        else:
            if isinstance(field.kind, type) or type(ours) in CHOICES:
                assert theirs.HasField(there) or mine == type(mine)(), place
            pairs = [(mine, other)]
        for own, its in pairs:
            if isinstance(field.kind, type):
                compared(own, its, place)
            elif field.attribute != "type" or own in ATTRIBUTES:
                assert own == its, place


def read_alike(data: bytes) -> Model | None:
    """What ours reads of bytes, after a comparison with onnx; None where it refuses them."""
    try:
        ours = parse_graph(data)
    except ValueError:
        return None
    with contextlib.suppress(DecodeError):  # a fault in what ours steps over
        compared(ours, onnx.ModelProto.FromString(data))
    return ours


@pytest.mark.parametrize("make", FOLDERS)
def test_the_suites_graphs_are_read_as_onnx_reads_them(make, tmp_path):
    path = make(tmp_path / "m") / "model.onnx"
    compared(read_graph(path), onnx.load(path))


@pytest.mark.parametrize("path", FIRST, ids=lambda path: "-".join(path.parts[-4:-2]))
def test_built_graphs_are_read_as_onnx_reads_them(path):
    compared(read_graph(path), onnx.load(path))


def test_everything_that_is_read_stands_in_one_model():
    model = parse_graph(WHOLE)
    compared(model, onnx.ModelProto.FromString(WHOLE))
    constant = model.functions[0].node[0]
    assert constant.attribute[0].t is not None
    [_, outside] = model.graph.initializer
    assert [entry.value for entry in outside.external_data] == ["deep/data.bin", "4096"]
    assert model.graph.input[0].sizes == [None, 3, None]
    assert model.graph.input[1].sizes is model.graph.output[0].sizes is None
    assert ("bits", -4) in [(each.name, each.i) for each in model.graph.node[2].attribute]


EDITS = st.tuples(
    st.sampled_from(("cut", "change", "drop", "repeat", "insert")),
    st.integers(0, len(WHOLE) - 1),
    st.integers(1, 64),
    st.binary(min_size=1, max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EDITS, min_size=1, max_size=4))
def test_mutated_bytes_are_read_as_onnx_reads_them_or_refused(edits):
    data = WHOLE
    for kind, at, length, odd in edits:
        before, piece, after = data[:at], data[at : at + length], data[at + length :]
        data = {
            "cut": before,
            "change": before + odd + data[at + len(odd) :],
            "drop": before + after,
            "repeat": before + piece * 3 + after,
            "insert": before + odd + piece + after,
        }[kind]
    read_alike(data)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes(found) + bytes([number])


def tagged(number: int, wire_type: int, value: bytes) -> bytes:
    return varint(number << 3 | wire_type) + value


NUMBERS = st.one_of(st.integers(0, 40), st.integers(-(2**63), 2**64 - 1))
WORDS = st.text("ab\u00e9", max_size=3).map(str.encode)


def of_field(number: int, field: Field, depth: int) -> st.SearchStrategy[bytes]:
    """A field as it should be, or of a wire type that it has not."""
    plain = NUMBERS.map(lambda value: tagged(number, 0, varint(value)))
    words = WORDS.map(lambda value: tagged(number, 2, varint(len(value)) + value))
    if isinstance(field.kind, type):
        inner = st.just(b"") if depth == 0 else message(field.kind, depth - 1)
        right = inner.map(lambda value: tagged(number, 2, varint(len(value)) + value))
        return st.one_of(right, right, right, plain)
    if field.kind == "text":
        return st.one_of(words, words, words, plain)
    packed = st.lists(NUMBERS, max_size=3).map(lambda values: b"".join(map(varint, values)))
    several = packed.map(lambda value: tagged(number, 2, varint(len(value)) + value))
    return st.one_of(plain, several)


def message(kind: type, depth: int) -> st.SearchStrategy[bytes]:
    """Fields of a message in any order, some again and some unknown."""
    known = [of_field(*each, depth) for each in onnx_graph._SCHEMA[kind].items()]
    unknown = st.sampled_from([tagged(4000, 0, b"\x05"), tagged(4000, 5, b"four"), b"\xc9\x3e" * 4])
    return st.lists(st.one_of(*known, unknown), max_size=5).map(b"".join)


@settings(max_examples=100, deadline=None)
@given(message(Model, 5))
def test_messages_of_any_order_repeats_and_types_are_read_as_onnx_reads_them(data):
    read_alike(data)


def test_fields_that_come_again_are_merged():
    first, second = (
        tagged(7, 2, varint(len(part)) + part)
        for part in (
            tagged(1, 2, b"\x03" + tagged(3, 2, b"\x01a")),
            tagged(1, 2, b"\x06" + tagged(3, 2, b"\x01b") * 2),
        )
    )
    model = read_alike(first + second)
    assert model is not None
    assert [node.name for node in model.graph.node] == ["a", "b"]


def nested(depth: int) -> bytes:
    """A graph in a node in a graph, and so on."""
    data = b""
    for _ in range(depth):
        for number in (6, 5, 1):
            data = tagged(number, 2, varint(len(data)) + data)
    return tagged(7, 2, varint(len(data)) + data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"\x00\x01", "number 0"),
        (b"\x3b\x3c", "wire type 3"),
        (b"\x3a\x7f", "longer than its message"),
        (b"\x39\x01", "longer than its message"),
        (b"\x3a" + b"\xff" * 10, "cut short"),
        (b"\xff" * 4, "cut short"),
        (nested(40), "100 deep"),
        (tagged(7, 2, b"\x05" + tagged(12, 2, b"\x03" + tagged(1, 2, b"\x01\xff"))), "utf-8"),
    ],
)
def test_hostile_files_are_one_sentence(data, why, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=why) as refused:
        read_graph(path)
    assert "\n" not in str(refused.value)


def test_what_lies_deep_is_read_as_far_as_protobuf_does():
    assert read_alike(nested(33)) is not None
    onnx.ModelProto.FromString(nested(33))
    assert read_alike(nested(34)) is None
    with pytest.raises(DecodeError):
        onnx.ModelProto.FromString(nested(34))


def test_a_file_of_nothing_but_parts_is_refused(monkeypatch):
    monkeypatch.setattr(wire, "_MOST", 1000)
    node, dims = tagged(1, 2, b"\x00"), tagged(1, 2, varint(2000) + b"\x01" * 2000)
    tensor = tagged(5, 2, varint(len(dims)) + dims)
    for part in (node * 2000, tensor):
        with pytest.raises(ValueError, match="more than 1,000 parts"):
            parse_graph(tagged(7, 2, varint(len(part)) + part))


def test_stored_values_are_stepped_over(tmp_path):
    """A file of 4 GB in holes is read at once, in little memory."""
    values = 1 << 32
    tensor = tagged(8, 2, b"\x01w") + varint(9 << 3 | 2) + varint(values)
    output = tagged(12, 2, b"\x03" + tagged(1, 2, b"\x01y"))
    graph = output + varint(5 << 3 | 2) + varint(len(tensor) + values) + tensor
    with (tmp_path / "m.onnx").open("wb") as file:
        file.write(varint(7 << 3 | 2) + varint(len(graph) + values) + graph)
        file.truncate(file.tell() + values)
    model = read_graph(tmp_path / "m.onnx")
    assert [each.name for each in model.graph.initializer] == ["w"]
    assert model.graph.output == [Value("y")]


def test_sizes_of_values_are_those_of_numpys_types():
    assert len(TENSOR_BITS) >= 26
    for number, bits in TENSOR_BITS.items():
        name = onnx.TensorProto.DataType.Name(number)
        size = 8 * onnx.helper.tensor_dtype_to_np_dtype(number).itemsize
        packed = [part for part in (2, 4) if name.endswith((f"INT{part}", f"FLOAT{part}E2M1"))]
        assert bits == (8 if name == "STRING" else packed[0] if packed else size), name
