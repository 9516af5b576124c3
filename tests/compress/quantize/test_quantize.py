"""Rounding, the plan, smoothing: against closed forms and the unchanged model."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from tiny_models import POST_NORMED, make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.quantize.int8 import round_rows
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.plan import Plan, plan_formats
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.quantize.smooth import fold_smoothing, observe_inputs
from edgeprune.targets import TARGETS, choose, find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    bits=st.sampled_from([7, 8]),
    seed=st.integers(0, 9999),
)
def test_absmax_error_is_at_most_half_a_step(rows, columns, bits, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight[0] *= 0 if seed % 3 == 0 else 1
    rounded = round_rows(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert rounded.codes.dtype == torch.int8
    assert rounded.codes.abs().max() <= top
    error = (rounded.dequantize() - weight).abs()
    half = weight.abs().amax(1, keepdim=True) / top / 2
    assert (error <= half * (1 + 1e-4) + 1e-9).all()
    assert rounded.largest_error == pytest.approx(float(error.max()), abs=1e-7)


def test_mse_clip_is_never_worse_than_absmax():
    torch.manual_seed(0)
    weight = torch.distributions.Laplace(0.0, 1.0).sample((16, 4096))
    for bits in (7, 8):
        plain, searched = round_rows(weight, bits), round_rows(weight, bits, "mse")
        error = (plain.dequantize() - weight).square().sum(1)
        better = (searched.dequantize() - weight).square().sum(1)
        assert (better <= error).all()
        assert searched.relative_error < plain.relative_error


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        round_rows(torch.tensor([[1.0, float("nan")]]))


def test_seven_bits_cannot_saturate_sixteen():
    """Without VNNI two products of an unsigned and a signed byte are summed in 16 bits."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    for target in TARGETS:
        codes = round_rows(weight, target.weight_bits).codes.int()
        pairs = codes.abs().reshape(8, 32, 2).sum(2) * 255
        if "avx2" in target.flags and "vnni" not in target.name:
            assert pairs.max() <= 2**15 - 1
    assert (round_rows(weight, 8).codes.int().abs().amax() * 2 * 255) > 2**15


def test_unsigned_by_signed_product_is_exact_in_the_runtime():
    """What the largest codes give on this machine with the bits its target asks for."""
    from edgeprune.targets import detect

    top = 2 ** (detect().weight_bits - 1) - 1
    codes = np.full((64, 16), top, np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 16])],
        [numpy_helper.from_array(codes, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"x": np.full((4, 64), 255, np.uint8)})
    assert (got == 64 * 255 * top).all()


def test_plan_covers_every_linear_and_survives_json(tmp_path):
    anatomy = make_model("llama", tmp_path).anatomy
    plan = plan_formats(anatomy, QuantizeSettings(), overrides={})
    assert {entry.name for entry in plan} == set(anatomy.linears()) | set(
        anatomy.embeddings.values()
    )
    assert plan["lm_head"].tied_to == anatomy.embeddings["word"]
    assert Plan.from_json(plan.to_json()) == plan
    floats = plan_formats(anatomy, QuantizeSettings(weights="none"))
    assert floats.quantized == []
    untied = plan_formats(anatomy, QuantizeSettings(embeddings=False))
    assert untied["lm_head"].tied_to is None


def test_settings_refuse_what_they_do_not_know():
    with pytest.raises(ValidationError):
        QuantizeSettings(weight="int8")
    with pytest.raises(ValidationError):
        QuantizeSettings(smooth=1.5)
    assert all(field.description for field in QuantizeSettings.model_fields.values())


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "bert", "gemma", "gpt2", "opt", "phi", *POST_NORMED]
)
def test_smoothing_leaves_the_function(family, tmp_path):
    model = make_model(family, tmp_path)
    batch = make_batch()
    with torch.no_grad():
        before = model.module(**batch)[0]
        ranges = observe_inputs(model, [batch])
        smoothed = fold_smoothing(model, ranges, 0.7)
        after = model.module(**batch)[0]
    kept = batch["attention_mask"] == 1
    assert (before - after)[kept].abs().max() < 1e-4 * before[kept].abs().max()
    blocks = model.anatomy.blocks
    assert {block.attention.output for block in blocks} <= set(smoothed)
    if family in ("llama", "qwen3", "gemma", "gemma2", "gemma3_text"):
        assert set(smoothed) == set(model.anatomy.block_linears())
    seen = observe_inputs(model, [batch])
    for name in smoothed:
        torch.testing.assert_close(ranges[name].largest, seen[name].largest, rtol=1e-3, atol=1e-5)


def test_massive_activations_are_found_and_protected(tmp_path):
    model = make_model("llama", tmp_path, unequal=False)
    up = model.linear(model.anatomy.blocks[1].feed_forward.up)
    with torch.no_grad():
        # One channel that fires for one token in hundreds.
        up.weight[3] *= 3000
    down = model.anatomy.blocks[1].feed_forward.down
    choices = {"token-wise": "int8-token", "float": "float32", "none": "int8"}
    for choice, expected in choices.items():
        options = QuantizeSettings(massive_activations=choice, massive_ratio=5.0)
        result = quantize_model(model, [make_batch(8, 60)], options, VNNI)
        assert result.plan[down].format == expected
        assert (down in result.massive) == (choice != "none")


def test_weights_are_left_at_the_planned_values(tmp_path):
    model = make_model("qwen2", tmp_path / "hf")
    result = quantize_model(model, [make_batch()], QuantizeSettings(), VNNI)
    for entry in result.plan.quantized:
        weight = model.module.get_submodule(entry.name).weight
        planned = result.codes[entry.name].float() * result.scales[entry.name][:, None]
        assert torch.equal(weight, planned)
    result.save(tmp_path / "q")
    loaded = Quantized.load(tmp_path / "q")
    assert loaded.plan == result.plan
    assert all(torch.equal(loaded.codes[name], codes) for name, codes in result.codes.items())
    assert all(torch.equal(loaded.scales[name], scales) for name, scales in result.scales.items())


@pytest.mark.parametrize(
    ("machine", "flags", "name"),
    [
        ("x86_64", ["avx2", "avx512f", "avx512vnni"], "x86-avx512-vnni"),
        ("x86_64", ["avx2", "avx_vnni"], "x86-avx-vnni"),
        ("AMD64", ["avx2", "fma"], "x86-avx2"),
        ("x86_64", ["sse2"], "x86"),
        ("aarch64", ["asimd", "asimddp", "i8mm"], "arm-i8mm"),
        ("aarch64", ["asimd", "asimddp"], "arm-dotprod"),
        ("aarch64", ["asimd"], "arm"),
    ],
)
def test_processors_are_told_apart(machine, flags, name):
    target = choose(machine, flags)
    assert target.name == name
    assert find(name) is target
    evidence = {"weight_bits", "decode_weights", "skip_layer_norm_harmful"}
    assert set(target.evidence) == evidence


def test_unknown_target_is_named():
    with pytest.raises(UserError, match="x86-avx2"):
        find("z80")
