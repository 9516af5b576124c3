"""Which linears a plan stores sparse: zeros, tables, precedence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_batch, make_model

from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.plan import SPARSE
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.quantize.sparse import choose_sparse, empty_share
from edgeprune.kernels.formats import FORMATS
from edgeprune.kernels.pack import pack
from edgeprune.targets import TARGETS, find
from edgeprune.targets.break_even import FOLDER, BreakEven, Point, from_json

UNMEASURED = replace(find("x86-avx512-vnni"), name="unmeasured")
TABLE = BreakEven(
    (
        Point(
            100,
            100,
            1,
            10.0,
            {"int8-4x16": ((0.0, 20.0), (0.5, 10.0), (1.0, 2.0)), "int8-4x1": ((0.4, 8.0),)},
        ),
        Point(100, 100, 128, 1000.0, {"int8-4x16": ((0.0, 1000.0), (1.0, 0.0))}),
        Point(1000, 100, 128, 10000.0, {"int8-4x16": ((0.0, 20000.0), (1.0, 0.0))}),
    ),
    "made up",
)


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 20),
    name=st.sampled_from(["int8-4x16", "int8-4x1"]),
    density=st.floats(0, 0.3),
    seed=st.integers(0, 9999),
)
def test_the_empty_share_is_what_packing_leaves_out(outputs, inputs, name, density, seed):
    rng = np.random.default_rng(seed)
    weight = (rng.random((outputs, inputs)) < density).astype(np.int8)
    packed = pack(np.ascontiguousarray(weight.T), name)
    found = empty_share(torch.from_numpy(weight).float(), FORMATS[name])
    assert found == pytest.approx(packed.sparsity, abs=1e-6)


def test_a_table_is_read_between_its_points():
    choice = TABLE.choose({"int8-4x16": 0.75, "int8-4x1": 0.0}, 100, 100, 1)
    assert (choice.format, choice.sparsity) == ("int8-4x16", 0.75)
    assert choice.microseconds == pytest.approx(6.0)  # half way from 10 to 2
    assert choice.dense_microseconds == 10.0
    # The faster of two that win.
    assert TABLE.choose({"int8-4x16": 0.6, "int8-4x1": 0.5}, 100, 100, 1).format == "int8-4x1"
    # As fast as dense is not faster; below the first point nothing is known.
    assert TABLE.choose({"int8-4x16": 0.5}, 100, 100, 1) is None
    assert TABLE.choose({"int8-4x1": 0.39}, 100, 100, 1) is None


def test_the_nearest_point_is_scaled_to_the_work():
    choice = TABLE.choose({"int8-4x16": 0.5}, 100, 50, 64)  # 128 rows are nearer than 1
    assert choice.microseconds == pytest.approx(500 / 4)
    assert choice.dense_microseconds == pytest.approx(1000 / 4)
    assert TABLE.choose({"int8-4x16": 0.5}, 1000, 200, 128) is None


def test_an_unmeasured_target_is_planned_conservatively():
    table = UNMEASURED.break_even
    assert UNMEASURED.to_json()["evidence"]["break_even"] == "unmeasured"
    assert table.choose({"int8-4x16": 0.74, "int8-4x1": 0.99}, 384, 384, 128) is None
    choice = table.choose({"int8-4x16": 0.75}, 384, 384, 128)
    assert (choice.format, choice.microseconds) == ("int8-4x16", None)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_table_that_ships_is_of_a_target_and_sane(file):
    known = {target.name: target for target in TARGETS}
    content = json.loads(file.read_text())
    assert content["target"] == file.stem
    table = from_json(content)
    assert known[file.stem].break_even == table
    assert table.points
    for point in table.points:
        assert point.dense_int8 > 0
        assert point.sparse
        for line in point.sparse.values():
            sparsities, times = zip(*line, strict=True)
            assert sorted(sparsities) == list(sparsities)
            assert 0 < times[-1] < times[0]


def prune(model, share, outputs):
    """Empty whole blocks of 4 inputs of every linear, at random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in model.anatomy.block_linears():
            weight = model.linear(name).weight
            rows, columns = -(-weight.shape[0] // outputs), -(-weight.shape[1] // 4)
            kept = torch.rand(rows, columns, generator=generator) >= share
            kept = kept.repeat_interleave(outputs, 0).repeat_interleave(4, 1)
            weight.mul_(kept[: weight.shape[0], : weight.shape[1]])


def refill_keys(model):
    """Give the linears of the keys no zeros."""
    for block in model.anatomy.blocks:
        torch.nn.init.normal_(model.linear(block.attention.key).weight)


def test_only_what_was_emptied_is_sparse_and_it_stays_as_empty(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    for target in (UNMEASURED, find("x86-avx512-vnni")):
        assert choose_sparse(model, QuantizeSettings(tokens=1), target) == {}
    whole = QuantizeSettings(tokens=1, sparse="whole")
    assert choose_sparse(model, whole, UNMEASURED) == {}  # nothing says that it is faster
    chosen = choose_sparse(model, whole, find("x86-avx512-vnni"))
    assert set(chosen) == set(model.anatomy.block_linears())
    assert {choice.sparsity for choice in chosen.values()} == {0.0}
    prune(model, 0.9, 16)
    off = QuantizeSettings(sparse=False)
    assert choose_sparse(model, off, UNMEASURED) == {}
    chosen = choose_sparse(model, QuantizeSettings(), UNMEASURED)
    assert 0 < len(chosen) <= len(model.anatomy.block_linears())
    before = {name: model.linear(name).weight == 0 for name in chosen}
    quantized = quantize_model(model, [], QuantizeSettings(), UNMEASURED)
    for entry in quantized.plan:
        assert (entry.name in chosen) == (entry.format in SPARSE)
        if entry.name in chosen:
            assert bool((quantized.codes[entry.name][before[entry.name]] == 0).all())
            assert entry.sparsity == chosen[entry.name].sparsity
            packed = pack(quantized.codes[entry.name].numpy().T, "int8-4x16")
            assert entry.bytes == packed.bytes + 4 * entry.shape[0]
            assert (entry.bits, entry.group) == (UNMEASURED.weight_bits, None)
    quantized.save(tmp_path / "saved")
    assert Quantized.load(tmp_path / "saved").plan == quantized.plan


def test_a_scale_per_token_stays_with_sparse_weights(tmp_path):
    model = make_model("llama", tmp_path / "hf", unequal=False)
    prune(model, 0.9, 16)
    options = QuantizeSettings(massive_ratio=1.1)
    plan = quantize_model(model, [make_batch()], options, UNMEASURED).plan
    formats = {entry.format for entry in plan if entry.role not in ("head", "word")}
    assert "sparse-4x16-token" in formats
    assert formats <= {"sparse-4x16-token", "int8-token"}
    options = QuantizeSettings(massive_ratio=1.1, massive_activations="float")
    quantized = quantize_model(model, [make_batch()], options, UNMEASURED)
    assert {quantized.plan[name].format for name in quantized.massive} == {"float32"}


def test_gptq_fills_no_block_that_a_sparse_format_leaves_out(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    prune(model, 0.9, 16)
    before = {name: model.linear(name).weight == 0 for name in model.anatomy.block_linears()}
    options = QuantizeSettings(method="gptq")
    quantized = quantize_model(model, [make_batch()], options, UNMEASURED)
    sparse = [entry.name for entry in quantized.plan if entry.format in SPARSE]
    assert sparse
    assert all(bool((quantized.codes[name][before[name]] == 0).all()) for name in sparse)


def test_mixed_precision_leaves_sparse_linears_and_counts_their_bytes(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    names = list(model.anatomy.block_linears())
    prune(model, 0.9, 16)
    refill_keys(model)
    options = QuantizeSettings(weights="mixed", average_bits=5.5)
    chosen = choose_sparse(model, options, UNMEASURED)
    quantized = quantize_model(model, [make_batch(8, 20)], options, UNMEASURED)
    entries = [entry for entry in quantized.plan if entry.name in names]
    assert {entry.name for entry in entries if entry.format in SPARSE} == set(chosen)
    assert {entry.format for entry in entries} > {"sparse-4x16"}
    weights = sum(entry.shape[0] * entry.shape[1] for entry in entries)
    assert 8 * sum(entry.bytes for entry in entries) <= 5.5 * weights


def test_static_scales_are_for_dense_int8_alone(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    prune(model, 0.9, 16)
    refill_keys(model)
    options = QuantizeSettings(activations="static")
    quantized = quantize_model(model, [make_batch()], options, UNMEASURED)
    fixed = {entry.format for entry in quantized.plan if entry.input_scale is not None}
    free = {entry.format for entry in quantized.plan if entry.input_scale is None}
    assert fixed == {"int8"}
    assert "sparse-4x16" in free
    assert "int8" not in free
