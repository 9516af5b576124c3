"""Mixed precision: costs against Jacobians and the model, choices against every other."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.objectives.embedding import embed
from edgeprune.compress.quantize.mixed import choose_formats
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.plan import Plan
from edgeprune.compress.quantize.sensitivity import fisher_costs, fisher_diagonals, measured_costs
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.quantize.stage import run as quantize
from edgeprune.model.store import save_model
from edgeprune.targets import TARGETS, find, format_times
from edgeprune.targets.format_times import FOLDER, FormatTimes, Point, from_json
from edgeprune.text.batches import Batch

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")


def test_diagonals_are_the_mean_of_squared_jacobians(tmp_path):
    model = make_model("bert", tmp_path)
    batch = {name: value[:1] for name, value in make_batch().items()}
    block = model.anatomy.blocks[0]
    names = [block.attention.value, block.feed_forward.down]
    found = fisher_diagonals(model, names, [batch] * 200, seed=0)
    output = embed(model.module(**batch), batch["attention_mask"], model.pooling)[0]
    for name in names:
        weight = model.linear(name).weight
        exact = torch.zeros_like(weight)
        for value in output:
            [gradient] = torch.autograd.grad(value, weight, retain_graph=True)
            exact += gradient.square()
        assert float(found[name].sum()) == pytest.approx(float(exact.sum()), rel=0.3)
        together = torch.stack([found[name].flatten(), exact.flatten()])
        assert float(torch.corrcoef(together)[0, 1]) > 0.9


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_predicted_costs_are_those_of_small_independent_errors(family, tmp_path):
    model = make_model(family, tmp_path)
    batches = [make_batch(16, 20, seed) for seed in range(8)]
    torch.manual_seed(0)
    replacements = {}
    for name in list(model.anatomy.block_linears())[:6]:
        weight = model.linear(name).weight.detach()
        replacements[name] = {
            "same": weight.clone(),
            "near": weight + 0.01 * weight.std() * torch.randn_like(weight),
        }
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    measured = measured_costs(model, replacements, batches, seed=0)
    predicted = fisher_costs(model, replacements, batches, seed=0)
    after = dict(model.module.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for costs in (measured, predicted):
        assert all(found["same"] < 1e-3 * found["near"] for found in costs.values())
    ratios = [predicted[name]["near"] / measured[name]["near"] for name in replacements]
    assert 0.5 < sum(ratios) / len(ratios) < 2
    assert all(0.2 < ratio < 5 for ratio in ratios)


@pytest.mark.parametrize("sensitivity", ["fisher", "measured"])
def test_bits_go_where_they_matter_within_the_budget(sensitivity, tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    names = list(model.anatomy.block_linears())
    options = QuantizeSettings(
        weights="mixed", average_bits=7.4, group=32, sensitivity=sensitivity, embeddings=False
    )
    result = quantize_model(model, [make_batch(8, 20)], options, VNNI)
    entries = [entry for entry in result.plan if entry.name in names]
    weights = sum(entry.shape[0] * entry.shape[1] for entry in entries)
    assert 8 * sum(entry.bytes for entry in entries) <= 7.4 * weights
    assert {entry.format for entry in entries} == {"int8", "int4"}
    costs = result.costs
    # Of two tensors of one shape, the one that would gain more has the more bits.
    for one, other in itertools.combinations(entries, 2):
        if one.shape == other.shape and one.format != other.format:
            wide, narrow = (one, other) if one.format == "int8" else (other, one)
            gains = [costs[e.name]["int4"] - costs[e.name]["int8"] for e in (wide, narrow)]
            assert gains[0] >= gains[1]


@pytest.mark.parametrize("sensitivity", ["fisher", "measured"])
def test_nothing_is_chosen_where_everything_is_sparse(sensitivity, tmp_path):
    """Such as where all linears lost enough blocks: there is no cost to predict."""
    model = make_model("bert", tmp_path, unequal=False)
    settings = QuantizeSettings(weights="mixed", sensitivity=sensitivity)
    given = Plan(()), [make_batch()], settings, find("x86-avx2"), 0
    assert choose_formats(model, *given) == ({}, {})


def test_the_recipes_seed_draws_the_predicted_costs(tmp_path):
    """The stage, with all else the same."""
    save_model(make_model("bert", tmp_path / "new", unequal=False), tmp_path / "in")
    given = make_batch(8, 20)
    batches = [Batch(given["input_ids"].numpy(), given["attention_mask"].numpy())]
    options = QuantizeSettings(weights="mixed", average_bits=7.4, group=32)
    costs = [
        quantize(
            SimpleNamespace(  # type: ignore[arg-type]
                seed=seed, target=find("x86-avx512-vnni"), calibration=lambda _n: batches
            ),
            tmp_path / "in",
            tmp_path / f"{number}",
            options,
        ).costs
        for number, seed in enumerate((0, 0, 1))
    ]
    assert costs[0] == costs[1]
    assert all(costs[0][name] != costs[2][name] for name in costs[0])


def test_too_few_bits_are_refused_with_what_is_possible(tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    options = QuantizeSettings(weights="mixed", average_bits=4, group=32)
    with pytest.raises(UserError, match=r"takes 5\.\d+ bits"):
        quantize_model(model, [make_batch()], options, VNNI)


# Decoding: INT4 is the faster format, and as much so for each weight of any shape.
TIMES = FormatTimes((Point(32, 32, 1, {"int8": 3.0, "int4-32": 2.0}),), "made up")


@pytest.fixture
def timed(monkeypatch):
    """A target whose times are known."""
    monkeypatch.setattr("edgeprune.targets.format_times", lambda name: TIMES)
    return VNNI


def _timed(model, milliseconds, target):
    options = QuantizeSettings(
        weights="mixed", linears_ms=milliseconds, tokens=1, group=32, embeddings=False
    )
    return quantize_model(model, [make_batch(8, 20)], options, target)


def test_a_budget_of_time_is_kept_at_the_least_cost(timed, tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    names = list(model.anatomy.block_linears())
    weights = {name: model.linear(name).weight.numel() for name in names}
    budget = 2.5 * sum(weights.values()) / (32 * 32) / 1000  # half way between the formats
    result = _timed(model, budget, timed)
    formats = {entry.name: entry.format for entry in result.plan if entry.name in names}
    assert set(formats.values()) == {"int8", "int4"}

    def taken(chosen):
        rates = {"int8": 3.0, "int4": 2.0}
        return sum(weights[name] / (32 * 32) * rates[kind] for name, kind in chosen.items()) / 1000

    assert taken(formats) <= budget
    # The oracle: every choice of the 12 linears.
    costs = result.costs
    best = min(
        sum(costs[name][kind] for name, kind in zip(names, kinds, strict=True))
        for kinds in itertools.product(("int8", "int4"), repeat=len(names))
        if taken(dict(zip(names, kinds, strict=True))) <= budget + 1e-9
    )
    got = sum(costs[name][kind] for name, kind in formats.items())
    assert got == pytest.approx(best, rel=1e-9)


def test_times_that_cannot_be_kept_or_are_not_known_are_refused(timed, tmp_path, monkeypatch):
    model = make_model("bert", tmp_path, unequal=False)
    with pytest.raises(UserError, match=r"fastest formats take 0\.0\d+ ms on x86-avx512-vnni"):
        _timed(model, 1e-6, timed)
    monkeypatch.setattr("edgeprune.targets.format_times", lambda name: FormatTimes())
    with pytest.raises(UserError, match="edgeprune calibrate"):
        _timed(model, 1.0, timed)


def test_a_table_s_nearest_point_is_scaled_by_the_work():
    content = {
        "machine": {"processor": "some", "onnxruntime": "1.31.1"},
        "points": [
            {"inputs": 100, "outputs": 100, "rows": 1, "us": {"int8": 1.0}},
            {"inputs": 100, "outputs": 100, "rows": 100, "us": {"int8": 50.0, "int4-32": 90.0}},
            {"inputs": 1000, "outputs": 1000, "rows": 100, "us": {"int8": 4000.0}},
        ],
    }
    times = from_json(content)
    assert times.evidence == "3 shapes, some, ONNX Runtime 1.31.1"
    assert times.microseconds("int8", 200, 100, 2) == pytest.approx(4.0)
    assert times.microseconds("int8", 100, 100, 50) == pytest.approx(25.0)
    assert times.microseconds("int8", 500, 1000, 100) == pytest.approx(2000.0)
    # Only points at which the format was measured count.
    assert times.microseconds("int4-32", 100, 100, 1) == pytest.approx(0.9)
    assert times.microseconds("int4-64", 100, 100, 1) is None


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_time_table_that_ships_is_of_a_target(file):
    content = json.loads(file.read_text())
    assert content["target"] == file.stem
    assert file.stem in {target.name for target in TARGETS}
    assert format_times(file.stem) == from_json(content)
    times = [time for point in content["points"] for time in point["us"].values()]
    assert len(times) >= len(content["points"]) > 0
    assert min(times) > 0
