"""A graph's tensors are read one at a time, and what is written is what onnx reads."""

import gc
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeprune.export import tensors as written
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.verify import opened

_LARGE = 8 * 2**20
"""Bytes of a tensor that memory would show."""


def _graph(values):
    """y = x + the sum of all values, which are stored."""
    names = [f"stored_{place}" for place in range(len(values))]
    nodes = [
        helper.make_node("ReduceSum", [name], [f"{name}_sum"], f"/{name}", keepdims=0)
        for name in names
    ]
    nodes.append(helper.make_node("Sum", ["x", *(f"{name}_sum" for name in names)], ["y"], "/sum"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    stored = [numpy_helper.from_array(each, name) for name, each in zip(names, values, strict=True)]
    body = helper.make_graph(nodes, "sums", ends[:1], ends[1:], stored)
    opset = [helper.make_opsetid("", 17)]
    return Graph(helper.make_model(body, opset_imports=opset, ir_version=8))


def _values(*sizes):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(size).astype(np.float32) for size in sizes]


@settings(max_examples=20)
@given(st.lists(st.sampled_from([1, 3, 127, 128, 5000]), min_size=1, max_size=4), st.booleans())
def test_a_file_is_what_onnx_would_have_written(sizes, split):
    values = _values(*sizes)
    graph = _graph(values)
    graph.metadata["key"] = "value"
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(written, "_PROTOBUF_LIMIT", 0 if split else 1e9)
        path = Path(folder) / "model.onnx"
        path.with_name("model.onnx_data").write_bytes(b"of an earlier model")
        files = graph.save(path)
        assert files == [path, path.with_name("model.onnx_data")][: 1 + split]
        assert sorted(Path(folder).iterdir()) == files
        read = onnx.load(str(path))
        if not split:
            assert read == graph.model()
        for tensor, value in zip(read.graph.initializer, values, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), value)
        assert {entry.key: entry.value for entry in read.metadata_props} == {"key": "value"}
        onnx.checker.check_model(str(path))
        again = Graph.load(path)
        for name, value in zip(again.initializers, values, strict=True):
            np.testing.assert_array_equal(again.constant(name), value)
        # A file may be written over by the graph that was read from it.
        again.save(path)
        assert onnx.load(str(path)) == read


@pytest.mark.parametrize("limit", [0, 1e9])
def test_writing_holds_one_tensor_at_a_time(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(written, "_PROTOBUF_LIMIT", limit)
    graph = _graph(_values(2))
    for place in range(6):
        shape = ir.Shape([_LARGE // 4])
        read = lambda place=place: ir.tensor(np.full(_LARGE // 4, place, np.float32))  # noqa: E731
        lazy = ir.LazyTensor(read, ir.DataType.FLOAT, shape, name=f"lazy_{place}")
        graph.add_tensor(f"lazy_{place}", lazy)
    assert graph.bytes() == 6 * _LARGE + 8
    gc.collect()
    tracemalloc.start()
    files = graph.save(tmp_path / "model.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * _LARGE
    assert sum(file.stat().st_size for file in files) > 6 * _LARGE
    stored = Graph.load(tmp_path / "model.onnx")
    assert [stored.constant(f"lazy_{place}")[-1] for place in range(6)] == list(range(6))


def test_a_tensor_of_another_size_than_announced_is_refused(tmp_path):
    graph = _graph(_values(2))
    wrong = ir.LazyTensor(
        lambda: ir.tensor(np.zeros(3, np.float32)), ir.DataType.FLOAT, ir.Shape([4]), name="wrong"
    )
    graph.add_tensor("wrong", wrong)
    with pytest.raises(ValueError, match="12 bytes where 16"):
        graph.save(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_sessions_of_a_graph_and_its_snapshots_share_one_copy_of_the_tensors():
    values = _values(3, 5000, 70_000)
    graph = _graph(values)
    x = np.ones(1, np.float32)
    expected = 1 + sum(float(value.sum(dtype=np.float64)) for value in values)
    [got] = opened(graph).run(None, {"x": x})
    assert got == pytest.approx(expected, rel=1e-4)
    path = graph.save_for_session()
    shelf = path.with_name("tensors")
    size = shelf.stat().st_size
    assert size >= 4 * 75_000
    twin = graph.snapshot()
    twin.add_constant("stored_2", values[2] * 2)
    [doubled] = opened(twin).run(None, {"x": x})
    assert doubled == pytest.approx(expected + values[2].sum(), rel=1e-4)
    assert shelf.stat().st_size <= size + 4 * 70_000 + 4096  # what the twin has alone
    [again] = opened(graph).run(None, {"x": x})
    assert again == got
    np.testing.assert_array_equal(graph.constant("stored_1"), values[1])
    del graph
    gc.collect()
    assert shelf.exists()
    del twin
    gc.collect()
    assert not shelf.parent.exists()
