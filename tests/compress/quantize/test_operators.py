"""Models in the operator library's formats: planned, rounded, refused, built and run."""

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from sparse_models import library_for_tests
from tiny_builds import RECIPE, model_folder, recipe_file, text_file
from tiny_models import make_batch, make_model

import edgeprune
from edgeprune.cli import main
from edgeprune.compress.quantize.grid import as_multiples
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.kernels import library
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets import find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")


@pytest.mark.parametrize("method", ["rtn", "gptq", "hqq"])
@pytest.mark.parametrize("weights", ["int8", "int4", "mixed"])
def test_weights_are_left_at_the_values_of_the_operators_formats(weights, method, tmp_path):
    model = make_model("llama", tmp_path / "hf")
    options = QuantizeSettings(
        operators=True, weights=weights, method=method, average_bits=7.0, clip="mse"
    )
    result = quantize_model(model, [make_batch()], options, VNNI)
    result.save(tmp_path / "q")
    loaded = Quantized.load(tmp_path / "q")
    found = {entry.format for entry in result.plan if entry.name in model.anatomy.block_linears()}
    expected = {"int8": {"quant-int8"}, "int4": {"quant-int4"}}
    assert found == expected.get(weights, {"quant-int8", "quant-int4"})
    for entry in result.plan.quantized:
        assert torch.equal(model.module.get_submodule(entry.name).weight, loaded.values(entry.name))
        if entry.format == "quant-int4":
            ones, multiples = as_multiples(loaded.scales[entry.name], 15)
            assert torch.equal(ones[:, None] * multiples, loaded.scales[entry.name])
            assert (loaded.zero_points[entry.name] == 8).all()


def test_a_plan_counts_the_bytes_that_are_stored(tmp_path):
    model = make_model("llama-fused", tmp_path / "hf")
    options = QuantizeSettings(operators=True, weights="int4")
    plan = quantize_model(model, [make_batch()], options, VNNI).plan
    for entry in plan:
        if entry.format == "quant-int4":
            outputs, inputs = entry.shape
            groups = -(-inputs // 32)
            assert entry.bytes == outputs * (groups * 16 + groups + 4)


def test_mixed_precision_chooses_a_whole_product(tmp_path):
    model = make_model("llama-fused", tmp_path / "hf")
    options = QuantizeSettings(operators=True, weights="mixed", average_bits=6.5)
    result = quantize_model(model, [make_batch()], options, VNNI)
    linears = model.anatomy.block_linears()
    whole = {name: result.plan[name].format for name in linears}
    for block in model.anatomy.blocks:
        attention, forward = block.attention, block.feed_forward
        for product in (
            (attention.query, attention.key, attention.value),
            (forward.gate, forward.up),
        ):
            assert len({whole[name] for name in product}) == 1
    assert set(whole.values()) == {"quant-int8", "quant-int4"}
    entries = [result.plan[name] for name in linears]
    weights = sum(entry.shape[0] * entry.shape[1] for entry in entries)
    assert 8 * sum(entry.bytes for entry in entries) <= 6.5 * weights


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operators")
    model_folder(folder / "model")
    text_file(folder / "text.txt")
    return folder


def build(place, quantize, output="out", **more):
    content = yaml.safe_load(RECIPE)
    content["quantize"] = {"operators": True, "calibration_samples": 8, **quantize}
    for stage, settings in more.items():
        content[stage] |= settings
    file = recipe_file(place / "recipe.yaml", yaml.safe_dump(content))
    words = ["build", file, "--model", place / "model", "--data", place / "text.txt"]
    return CliRunner().invoke(main, [*map(str, words), "--output", str(place / output)])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"weights": "int8-groups"}, "quantize.weights of int8 or int4 or mixed, not int8-groups"),
        ({"weights": "none"}, "quantize.weights of int8 or int4 or mixed, not none"),
        ({"activations": "static"}, "quantize.activations of dynamic or token, not static"),
        ({"weights": "int4", "group": 64}, "quantize.group of 32 or 128, not 64"),
        ({"weights": "int4", "symmetric": False}, "quantize.symmetric of true, not false"),
        ({"cache_bits": 12}, "quantize.cache_bits is from 4 to 8, or 16, not 12"),
        ({"cache_bits": 16, "operators": False}, "is for the operator library's attention"),
        (
            {"weights": "mixed", "average_bits": 4.2},
            "average_bits of 4.2 cannot be met: INT4 in groups of 32 takes 4.25 bits",
        ),
    ],
)
def test_formats_that_no_operator_has_are_refused(place, settings, named):
    done = build(place, settings, output="refused")
    assert done.exit_code == 2
    assert named in done.output


def test_training_through_multiples_is_refused(place):
    done = build(place, {"weights": "int4"}, "refused", recover={"quantized": True})
    assert done.exit_code == 2
    assert "quantize.operators of false, not true" in done.output


def test_a_bundle_answers_with_the_library_as_without(place, tmp_path_factory, monkeypatch):
    built = library_for_tests(tmp_path_factory.mktemp("library"))
    monkeypatch.setattr(library, "LIBRARY", built)
    done = build(place, {})
    assert done.exit_code == 0, done.output
    bundle = place / "out" / "bundle"
    outline = read_outline(bundle / "onnx" / "model.onnx")
    assert outline.operators["RowAttention"] == 2
    texts = ["w001 w002 w003", "w004", "w005 w006 w007 w008 w009"]
    ours = edgeprune.load(bundle).embed(texts)
    monkeypatch.setattr(library, "LIBRARY", place / "nowhere.so")
    stock = edgeprune.load(bundle).embed(texts)
    sizes = np.linalg.norm(ours, axis=1) * np.linalg.norm(stock, axis=1)
    cosines = (ours * stock).sum(1) / sizes
    np.testing.assert_allclose(cosines, 1.0, atol=1e-3)
