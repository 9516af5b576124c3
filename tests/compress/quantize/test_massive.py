"""Massive activations: found in every model, treated by itself, told before the work."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from tiny_models import add_massive_activations, make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.quantize.massive import MOST_DRIFT, refuse_drift
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.plan import Entry, Plan
from edgeprune.compress.quantize.rounding import output_drift, round_input
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.targets import find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")
BATCHES = [make_batch(8, 60)]


def massive(family, folder):
    """A model with massive activations, and the linear that reads them."""
    model = make_model(family, folder, unequal=False)
    return model, add_massive_activations(model, BATCHES[0])


@pytest.mark.parametrize("family", ["bert", "mpnet", "distilbert"])
def test_an_encoder_gets_a_scale_per_token_where_it_helps(family, tmp_path):
    model, down = massive(family, tmp_path / "one")
    result = quantize_model(model, BATCHES, QuantizeSettings(), VNNI)
    formats = {entry.name: entry.format for entry in result.plan}
    assert formats[down] == "int8-token"
    assert down in result.massive
    # Only where it is needed: the other linears keep the faster format.
    assert list(formats.values()).count("int8-token") <= 3
    assert result.activation_drift < 0.18
    asked = QuantizeSettings(massive_activations="none")
    plain, _ = massive(family, tmp_path / "two")
    untreated = quantize_model(plain, BATCHES, asked, VNNI)
    assert untreated.activation_drift > 2 * result.activation_drift
    assert {entry.format for entry in untreated.plan} <= {"int8", "int8-rows", "float32"}


def test_an_encoder_without_them_keeps_one_scale(tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    result = quantize_model(model, BATCHES, QuantizeSettings(), VNNI)
    assert result.massive == {}
    assert "int8-token" not in {entry.format for entry in result.plan}


@pytest.mark.parametrize("smooth", [None, 0.5])
def test_smoothing_switches_nothing_else_on(smooth, tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    asked = QuantizeSettings(smooth=smooth, massive_ratio=1.1)
    result = quantize_model(model, BATCHES, asked, VNNI)
    assert bool(result.smoothed) == (smooth is not None)
    assert "int8-token" not in {entry.format for entry in result.plan}


@pytest.mark.parametrize(
    ("choice", "expected"), [("token-wise", "int8-token"), ("float", "float32"), ("none", "int8")]
)
def test_an_encoder_gets_what_is_asked_for(choice, expected, tmp_path):
    model, down = massive("bert", tmp_path)
    asked = QuantizeSettings(massive_activations=choice, massive_ratio=20.0)
    plan = quantize_model(model, BATCHES, asked, VNNI).plan
    assert plan[down].format == expected
    if choice == "token-wise":
        assert {plan[name].format for name in model.anatomy.linears()} == {"int8-token"}


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_scale_per_token_is_a_setting_of_its_own(family, choice, tmp_path):
    model = make_model(family, tmp_path, unequal=False)
    asked = QuantizeSettings(activations="token", massive_activations=choice)
    plan = quantize_model(model, BATCHES, asked, VNNI).plan
    assert {plan[name].format for name in model.anatomy.linears()} == {"int8-token"}


def test_calibrated_scales_stay_where_nothing_is_massive(tmp_path):
    model, down = massive("bert", tmp_path)
    asked = QuantizeSettings(activations="static", activation_range="minmax")
    plan = quantize_model(model, BATCHES, asked, VNNI).plan
    assert plan[down].format == "int8-token"
    fixed = [entry for entry in plan if entry.input_scale is not None]
    assert len(fixed) >= len(model.anatomy.linears()) - 3


def test_drift_is_that_of_the_rounded_model(tmp_path):
    """By hand: the inputs of every linear on 255 levels."""
    model = make_model("bert", tmp_path, unequal=False)
    batch = make_batch(1, 20)
    plan = quantize_model(model, [batch], QuantizeSettings(), VNNI).plan

    def on_levels(_, inputs):
        low, high = min(0.0, float(inputs[0].min())), max(0.0, float(inputs[0].max()))
        zero = round(-low / ((high - low) / 255))
        return torch.fake_quantize_per_tensor_affine(inputs[0], (high - low) / 255, zero, 0, 255)

    with torch.no_grad():
        before = model.module(**batch)[0]
        hooks = [
            model.linear(name).register_forward_pre_hook(on_levels)
            for name in model.anatomy.linears()
        ]
        after = model.module(**batch)[0]
        for hook in hooks:
            hook.remove()
    expected = float((before - after).norm() / before.norm())
    assert output_drift(model, plan, [batch]) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("spoilt", [False, True])
def test_inputs_that_nothing_rounds_drift_by_nothing_and_run_once(spoilt, monkeypatch, tmp_path):
    model = make_model("bert", tmp_path)
    plan = Plan(tuple(Entry(name, "up", (1, 1), "float32") for name in model.anatomy.linears()))
    if spoilt:
        model.linear(plan.entries[0].name).weight.data[0, 0] = math.nan
    calls = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda batch: calls.append(batch) or run(batch))
    drift = output_drift(model, plan, [make_batch(1, 20)])
    assert len(calls) == 1
    assert math.isnan(drift) if spoilt else drift == 0.0


@runs(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["int8", "int8-token", "int8-groups"]),
    rows=st.integers(1, 4),
    columns=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_a_rounded_input_is_at_most_half_a_step_away(kind, rows, columns, seed):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    entry = Entry("x", "up", (1, columns), kind, bits=8, group=16 if "groups" in kind else None)
    error = (round_input(values, entry) - values).abs()
    if kind == "int8":
        step = (values.max().clamp(min=0) - values.min().clamp(max=0)) / 255
    elif kind == "int8-token":
        step = values.abs().amax(1, keepdim=True) / 127
    else:
        parts = [part.abs().amax(1, keepdim=True).expand_as(part) for part in values.split(16, 1)]
        step = torch.cat(parts, 1) / 127
    # The zero point is rounded, too.
    assert (error <= step * (1.0 if kind == "int8" else 0.5) * (1 + 1e-3) + 1e-9).all()


def test_a_drift_that_remains_is_one_sentence():
    refuse_drift(MOST_DRIFT, QuantizeSettings())
    for drift, activations in ((0.6, "dynamic"), (0.6, "token")):
        with pytest.raises(UserError, match=r"^INT8 activations would move.*int8-groups") as told:
            refuse_drift(drift, QuantizeSettings(activations=activations))
        assert ("quantize.activations to token" in str(told.value)) == (activations == "dynamic")
    with pytest.raises(UserError, match="outputs on the calibration text are NaN or infinite"):
        refuse_drift(float("nan"), QuantizeSettings())
