"""What graphs answer, in a file, and how far two of them are apart."""

import gc
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_model

from edgeprune.export.graph import Graph
from edgeprune.export.rewrite import outputs
from edgeprune.export.rewrite.outputs import Difference, Kept
from edgeprune.export.rewrite.stage import checked
from edgeprune.export.rewrite.verify import largest_drift, mean_drift, without_padding
from edgeprune.export.tensors import Shelf
from edgeprune.export.trace import export_onnx
from edgeprune.text.batches import Batch


def test_kept_arrays_come_back_as_they_were():
    drawn = np.random.default_rng(0)
    values = {
        "logits": drawn.normal(size=(2, 5, 7)).astype(np.float32),
        "turned": drawn.normal(size=(3, 4)).T,
        "empty": np.zeros((2, 3, 0, 4), np.float32),
        "codes": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "one": np.float32(0.5),
    }
    kept = Kept(values)
    assert list(kept) == list(values)
    for name in (*values, *reversed(values)):  # in any order
        np.testing.assert_array_equal(kept[name], values[name])
        assert kept[name].dtype == np.asarray(values[name]).dtype
    kept["codes"][:] = 9
    np.testing.assert_array_equal(kept["codes"], values["codes"])


@pytest.mark.parametrize("part", [1, 7, 1 << 20])
def test_a_difference_is_that_of_whole_arrays(monkeypatch, part):
    monkeypatch.setattr(outputs, "_PART", part)
    drawn = np.random.default_rng(1)
    a = drawn.normal(size=(3, 5, 11)).astype(np.float32)
    b = a + drawn.normal(size=a.shape).astype(np.float32) / 100
    found = Difference.of(a, b)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    assert found.size == pytest.approx(np.linalg.norm(wide_a))
    assert found.apart == pytest.approx(np.linalg.norm(wide_a - wide_b))
    assert found.largest == pytest.approx(np.abs(wide_a - wide_b).max())
    root = np.sqrt(np.mean(wide_a**2))
    assert largest_drift([{"x": a}], [{"x": b}]) == pytest.approx(found.largest / root)
    assert mean_drift([{"x": a}], [{"x": b}]) == pytest.approx(found.apart / found.size)


@pytest.mark.parametrize("place", [0, 9, 19])
def test_nan_in_any_part_is_infinitely_far(monkeypatch, place):
    monkeypatch.setattr(outputs, "_PART", 7)
    a, b = np.ones(20, np.float32), np.ones(20, np.float32)
    b[place] = np.nan
    assert mean_drift([{"x": a}], [{"x": b}]) == np.inf
    assert largest_drift([{"x": a}], [{"x": b}]) == np.inf


def test_outputs_of_other_shapes_are_no_answer():
    with pytest.raises(ValueError, match=r"\(1, 4\) became one of \(4,\)"):
        mean_drift([{"x": np.ones((1, 4))}], [{"x": np.ones(4)}])


def test_padding_is_set_to_zero_in_a_copy():
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    values = {"states": np.full((2, 3, 4), np.nan), "present.0.key": np.ones((2, 5, 3, 4))}
    found = without_padding(values, {"attention_mask": mask})
    assert (found["states"][0, 2] == 0).all()
    assert np.isnan(found["states"][mask == 1]).all()
    assert found["present.0.key"].sum() == 5 * 5 * 4
    assert np.isnan(values["states"]).all()


def test_passes_are_compared_on_whole_texts_and_on_padded_beginnings():
    ids = np.arange(3 * 200).reshape(3, 200)
    mask = np.ones_like(ids)
    mask[2, 10:] = 0
    whole, many = checked([Batch(ids, mask), Batch(ids, mask)])
    np.testing.assert_array_equal(whole["input_ids"], ids[:1])
    np.testing.assert_array_equal(many["input_ids"], ids[:, :32])
    assert many["attention_mask"].sum(1).tolist() == [32, 24, 10]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_weight_that_was_read_is_not_mapped_for_ever(tmp_path):
    """onnx-ir maps the whole file of a stored tensor, and would as long as the tensor lives."""
    path = export_onnx(make_model("bert", tmp_path / "bert", unequal=False), tmp_path / "plain")
    graph = Graph.load(path)
    graph.save_for_session()
    shelf: Shelf = graph._shelf
    name = max(graph.initializers, key=lambda each: graph.initializers[each].nbytes)

    def mapped() -> bool:
        return str(shelf.folder) in Path("/proc/self/maps").read_text()

    value = graph.constant(name)
    assert value is not None
    assert mapped()
    del value
    gc.collect()
    assert not mapped()
