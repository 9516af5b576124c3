"""Groups of columns: against the runtime's own quantizer and product, and against bounds."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import _pybind_state as runtime

from edgeprune.compress.quantize.grid import as_multiples
from edgeprune.compress.quantize.grouped import round_groups
from edgeprune.compress.quantize.scheme import Scheme

torch.set_num_threads(1)


def laplace(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.distributions.Laplace(0.0, 1.0).sample((rows, columns))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 70),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([16, 32]),
    symmetric=st.booleans(),
    clip=st.sampled_from(["absmax", "mse"]),
    seed=st.integers(0, 9999),
)
def test_codes_and_errors_keep_their_bounds(rows, columns, bits, group, symmetric, clip, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight[:, ::3] += seed % 5
    weight[0] *= seed % 3
    got = round_groups(weight, Scheme(bits, group, symmetric), clip)
    groups = -(-columns // group)
    assert got.codes.dtype == got.zero_points.dtype == torch.uint8
    assert got.codes.shape == weight.shape
    assert got.scales.shape == got.zero_points.shape == (rows, groups)
    assert int(got.codes.max()) < 2**bits
    if symmetric:
        assert (got.zero_points == 2 ** (bits - 1)).all()
    error = (got.dequantize() - weight).abs()
    assert got.largest_error == pytest.approx(float(error.max()), abs=1e-7)
    norm = float(weight.norm())
    assert got.relative_error == pytest.approx(float(error.norm()) / norm if norm else 0, abs=1e-6)
    if clip == "absmax":
        # The middle is off the range's centre by half a step, a rounded zero point by another.
        steps = got.scales.abs().repeat_interleave(group, 1)[:, :columns]
        assert (error <= steps * (1 + 1e-4) + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 140),
    group=st.sampled_from([16, 32]),
    clip=st.sampled_from(["absmax", "mse"]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e9]),
    seed=st.integers(0, 9999),
)
def test_scales_of_a_row_are_whole_multiples_of_one(rows, columns, group, clip, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * scale
    weight *= torch.rand(rows, 1, generator=generator) ** 4
    weight[:, : seed % columns] *= 0
    got = round_groups(weight, Scheme(4, group, multiples=15), clip)
    ones, multiples = as_multiples(got.scales, 15)
    assert multiples.dtype == torch.int8
    assert 1 <= int(multiples.abs().min()) <= int(multiples.abs().max()) <= 15
    assert torch.equal(ones[:, None] * multiples, got.scales)
    # With all multiples looked at, each group has the best.
    steps = ones[:, None, None, None] * torch.arange(1, 16)[:, None, None]
    steps = torch.cat([steps, -steps], 1)
    filled = torch.nn.functional.pad(weight, (0, -columns % group)).reshape(rows, 1, -1, group)
    codes = (filled / steps).round().clamp(-8, 7)
    least = (codes * steps - filled).square().sum(3).amin(1)
    error = torch.nn.functional.pad(got.dequantize() - weight, (0, -columns % group))
    error = error.reshape(rows, -1, group).square().sum(2)
    if clip == "mse":
        torch.testing.assert_close(error, least, rtol=1e-4, atol=0)


def test_multiples_cost_little_of_a_groups_own_scale():
    weight = laplace(256, 512)
    own = round_groups(weight, Scheme(4, 32), "mse").relative_error
    shared = round_groups(weight, Scheme(4, 32, multiples=15), "mse").relative_error
    assert shared < 1.03 * own


def test_scales_without_one_number_are_refused():
    with pytest.raises(ValueError, match="no whole multiples"):
        as_multiples(torch.tensor([[1.0, 1.03]]), 15)


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_the_runtimes_own_quantizer(symmetric):
    rows, columns, group = 24, 96, 32
    weight = laplace(rows, columns)
    packed = np.zeros((rows, columns // group, group // 2), np.uint8)
    scales = np.zeros(rows * columns // group, np.float32)
    zeros = np.zeros(rows * 2, np.uint8)
    runtime.quantize_matmul_4bits(
        packed, weight.T.contiguous().numpy(), scales, zeros, group, rows, columns, symmetric
    )
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, columns)
    got = round_groups(weight, Scheme(4, group, symmetric))
    np.testing.assert_allclose(got.scales.numpy().ravel(), scales, rtol=1e-5)
    assert np.abs(got.codes.numpy().astype(int) - codes).max() <= 1  # half way: either is right
    assert (got.codes.numpy() == codes).mean() > 0.99
    if not symmetric:
        pairs = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(rows, 4)[:, :3]
        assert np.array_equal(got.zero_points.numpy(), pairs)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 128])
def test_the_runtimes_product_reads_them_as_we_do(bits, symmetric, group):
    """MatMulNBits without rounding of activations (accuracy level 0), a short last group too."""
    rows, columns = 8, 168
    weight = laplace(rows, columns)
    got = round_groups(weight, Scheme(bits, group, symmetric))
    groups = got.scales.shape[1]
    codes = np.zeros((rows, groups * group), np.uint8)
    codes[:, :columns] = got.codes.numpy()
    zeros = got.zero_points.numpy()
    if bits == 4:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
        zeros = np.pad(zeros, ((0, 0), (0, groups % 2)))
        zeros = zeros[:, ::2] | zeros[:, 1::2] << 4
    constants = {
        "codes": codes.reshape(rows, groups, -1),
        "scales": got.scales.numpy(),
        **({} if symmetric else {"zeros": zeros}),
    }
    node = helper.make_node(
        "MatMulNBits",
        ["x", *constants],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=bits,
        block_size=group,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, rows])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((5, columns)).astype(np.float32)
    [product] = session.run(None, {"x": x})
    np.testing.assert_allclose(product, x @ got.dequantize().numpy().T, rtol=1e-4, atol=1e-3)


def test_searched_ranges_are_never_worse():
    weight = laplace(16, 512)
    for symmetric in (True, False):
        plain = round_groups(weight, Scheme(4, 64, symmetric))
        searched = round_groups(weight, Scheme(4, 64, symmetric), "mse")
        before = (plain.dequantize() - weight).square().reshape(16, -1, 64).sum(2)
        after = (searched.dequantize() - weight).square().reshape(16, -1, 64).sum(2)
        assert (after <= before).all()
        assert searched.relative_error < 0.98 * plain.relative_error


def test_levels_far_from_zero_are_fitted_without_a_bias():
    """16 equal steps and zero 0.4 of one beside a level, as a format with a minimum has them: the
    range as it is moves every weight by 0.4, which a product with positive inputs adds up."""
    weight = (torch.arange(16.0).repeat(2) - 7 + torch.tensor([[-0.4], [0.4]])) * 0.01
    plain = round_groups(weight, Scheme(4, 32, False)).dequantize() - weight
    torch.testing.assert_close(plain[0], torch.full((32,), 0.004), atol=1e-5, rtol=0)
    fitted = round_groups(weight, Scheme(4, 32, False), "mse").dequantize() - weight
    assert (fitted.norm(dim=1) < 0.75 * plain.norm(dim=1)).all()
    assert (fitted.mean(1).abs() < 0.2 * plain.mean(1).abs()).all()


def test_values_on_a_grid_come_back_exactly():
    codes = torch.arange(16.0).repeat(3, 2)
    scales = torch.tensor([0.25, -0.5, 2.0])[:, None]
    weight = (codes - 8) * scales
    assert round_groups(weight, Scheme(4, 32)).relative_error == 0
    weight = (codes - 3) * scales.abs()
    got = round_groups(weight, Scheme(4, 32, False))
    assert got.relative_error == 0
    assert (got.zero_points == 3).all()


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        round_groups(torch.tensor([[1.0, float("nan")]]), Scheme(4, 32))
