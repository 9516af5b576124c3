"""GPTQ and HQQ: against least squares, rounding to nearest and exact grids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.maths.obs import (
    column_blocks,
    damped,
    inverse_factor,
    relative_error,
    settle_columns,
)
from edgeprune.compress.quantize.gptq import gptq
from edgeprune.compress.quantize.grid import fit_grid
from edgeprune.compress.quantize.hqq import hqq, refine
from edgeprune.compress.quantize.layers import round_nearest
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.targets import find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")
SCHEMES = [Scheme(8), Scheme(4, 16), Scheme(4, 32, symmetric=False), Scheme(8, 16)]


def layer(outputs: int = 12, inputs: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and the Gram matrix of correlated inputs."""
    torch.manual_seed(seed)
    x = torch.randn(inputs, inputs) @ torch.randn(inputs, 400)
    x *= torch.rand(inputs, 1) * 3
    return torch.randn(outputs, inputs), x @ x.T


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(1, 11),
    block_size=st.integers(1, 12),
    seed=st.integers(0, 999),
)
def test_columns_that_are_left_are_least_squares(first, block_size, seed):
    weight, gram = layer(5, 12, seed)
    hessian = damped(gram, 0.01)
    wanted = torch.randn(5, first, dtype=torch.float64)
    work = weight.double()

    def settle(column):
        return wanted[:, column] if column < first else work[:, column]

    settle_columns(work, inverse_factor(hessian), column_blocks(12, block_size, 1), settle)
    change = weight[:, :first].double() - wanted
    rest = torch.linalg.solve(hessian[first:, first:], hessian[first:, :first] @ change.T).T
    assert torch.equal(work[:, :first], wanted)
    torch.testing.assert_close(work[:, first:], weight[:, first:].double() + rest)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_is_rounding_to_nearest_where_inputs_do_not_mix(scheme):
    weight, _ = layer()
    got = gptq(weight, torch.rand(40).add(0.5).diag(), scheme)
    assert torch.equal(got.codes, round_nearest(weight, scheme).codes)
    assert torch.equal(got.dequantize(), round_nearest(weight, scheme).dequantize())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_loses_less_of_the_output(scheme, act_order):
    ours = nearest = 0.0
    for seed in range(3):
        weight, gram = layer(seed=seed)
        rounded = gptq(weight, gram, scheme, act_order=act_order)
        ours += relative_error(weight, rounded.dequantize(), gram)
        nearest += relative_error(weight, round_nearest(weight, scheme).dequantize(), gram)
        assert rounded.relative_error == pytest.approx(
            float((rounded.dequantize() - weight).norm() / weight.norm()), rel=1e-5
        )
        again = gptq(weight, gram, scheme, act_order=act_order, block_size=16)
        # The order of sums differs, so that a value half way may fall the other way.
        assert (again.codes == rounded.codes).float().mean() > 0.99
    assert ours < 0.8 * nearest


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_keeps_a_mask_and_makes_up_for_it_jointly(scheme):
    weight, gram = layer()
    kept = torch.rand(weight.shape) > 0.5
    weight = weight.masked_fill(~kept, 0)
    got = gptq(weight, gram, scheme, kept=kept).dequantize()
    assert (got[~kept] == 0).all()
    nearest = round_nearest(weight, scheme).dequantize()
    assert relative_error(weight, got, gram) < relative_error(weight, nearest, gram)
    free = gptq(weight, gram, scheme).dequantize()
    assert (free[~kept] != 0).any()


@pytest.mark.parametrize("method", [lambda w, s: gptq(w, torch.eye(40), s), hqq])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_lies_on_a_grid_comes_back(method, scheme):
    weight = round_nearest(layer()[0], scheme).dequantize()
    assert method(weight, scheme).relative_error < 1e-6


@settings(max_examples=25, deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    clip=st.sampled_from(["absmax", "mse"]),
    seed=st.integers(0, 999),
)
def test_hqq_never_spreads_errors_more_than_its_start(scheme, clip, seed):
    torch.manual_seed(seed)
    weight = torch.distributions.Laplace(0.0, 1.0).sample((6, 24))
    start = fit_grid(weight, scheme, clip)
    end = refine(weight, start)
    spread = [(g.nearest(weight) - weight).abs().pow(0.7).sum(1) for g in (start, end)]
    assert (spread[1] <= spread[0]).all()
    doubled = refine(2 * weight, fit_grid(2 * weight, scheme, clip))
    torch.testing.assert_close(doubled.scales, 2 * end.scales)
    assert torch.equal(doubled.zero_points, end.zero_points)


def test_hqq_does_better_by_most_weights():
    torch.manual_seed(0)
    weight = torch.distributions.Laplace(0.0, 1.0).sample((64, 128))
    for symmetric in (True, False):
        scheme = Scheme(4, 128, symmetric)
        plain = (round_nearest(weight, scheme).dequantize() - weight).abs().median()
        ours = (hqq(weight, scheme).dequantize() - weight).abs().median()
        assert ours < 0.95 * plain


@pytest.mark.parametrize("method", ["rtn", "gptq", "hqq"])
@pytest.mark.parametrize(
    ("family", "weights"),
    [("llama", "int4"), ("llama", "int8"), ("classifier", "mixed"), ("classifier", "int8-groups")],
)
def test_weights_are_left_at_the_planned_values(family, weights, method, tmp_path):
    model = make_model(family, tmp_path / "hf")
    options = QuantizeSettings(
        weights=weights, method=method, group=16, average_bits=7.5, symmetric=family == "llama"
    )
    result = quantize_model(model, [make_batch()], options, VNNI)
    linears = {e.name: e for e in result.plan if e.name in model.anatomy.block_linears()}
    formats = {entry.format for entry in linears.values()}
    assert formats == ({"int8", "int4"} if weights == "mixed" else {weights})
    result.save(tmp_path / "q")
    loaded = Quantized.load(tmp_path / "q")
    assert loaded.plan == result.plan
    for entry in result.plan.quantized:
        weight = model.module.get_submodule(entry.name).weight
        assert torch.equal(weight, result.values(entry.name))
        assert torch.equal(weight, loaded.values(entry.name))
        assert torch.equal(loaded.codes[entry.name], result.codes[entry.name])
        grouped = entry.format in ("int4", "int8-groups")
        assert result.codes[entry.name].dtype == (torch.uint8 if grouped else torch.int8)
        assert (entry.group == 16) == grouped == (entry.name in result.zero_points)
    stored = {name: result.errors[name] for name in linears}
    assert all(("output" in found) == (method == "gptq") for found in stored.values())


def test_masked_weights_stay_zero_through_the_model(tmp_path):
    for method in ("rtn", "gptq", "hqq"):
        model = make_model("bert", tmp_path / method)
        masks = {}
        for name in model.anatomy.block_linears():
            weight = model.linear(name).weight
            masks[name] = torch.rand(weight.shape) > 0.5
            weight.data.masked_fill_(~masks[name], 0)
        options = QuantizeSettings(weights="int4", method=method, symmetric=False)
        quantize_model(model, [make_batch()], options, VNNI, masks)
        for name, kept in masks.items():
            assert (model.linear(name).weight[~kept] == 0).all()
            assert (model.linear(name).weight[kept] != 0).any()


def test_gptq_brings_the_model_nearer_to_the_original(tmp_path):
    batch = make_batch(16, 40)
    distances = {}
    for method in ("rtn", "gptq"):
        model = make_model("bert", tmp_path / method)
        with torch.no_grad():
            before = model.module(**batch)[0]
            options = QuantizeSettings(weights="int4", method=method, embeddings=False)
            quantize_model(model, [batch], options, VNNI)
            distances[method] = float((model.module(**batch)[0] - before).norm())
    assert distances["gptq"] < 0.9 * distances["rtn"]


@pytest.mark.parametrize(
    ("weights", "method"),
    [("int4", "rtn"), ("int4", "gptq"), ("int4", "hqq"), ("mixed", "rtn"), ("mixed", "gptq")],
)
def test_weights_that_are_not_finite_are_named(weights, method, tmp_path):
    model = make_model("bert", tmp_path)
    name = model.anatomy.blocks[1].attention.key
    model.linear(name).weight.data[0, 0] = torch.inf
    options = QuantizeSettings(weights=weights, method=method)
    with pytest.raises(UserError, match=name):
        quantize_model(model, [make_batch()], options, VNNI)
