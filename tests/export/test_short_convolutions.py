"""A decoder some of whose layers have short convolutions: traced, quantized, run, and not cut."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner, Result
from padded_prompts import by_torch, decoded, largest_difference
from tiny_builds import model_folder, recipe_file, text_file
from tiny_models import VOCABULARY, make_batch, make_model

from edgeprune.cli import main
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.quantize.smooth import fold_smoothing, observe_inputs
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.trace import export_onnx
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.fits import check_fits
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.sampling import Sampling
from edgeprune.targets import find

torch.set_num_threads(1)
FEED = {name: value.numpy() for name, value in make_batch(rows=2).items()}
TARGET = find("x86-avx512-vnni")
RECIPE = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model("lfm2", tmp_path_factory.mktemp("lfm2"), unequal=False)


@pytest.fixture(scope="module")
def rewritten(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph in float32, as a bundle would have it."""
    folder = tmp_path_factory.mktemp("graph")
    path = folder / "rewritten.onnx"
    reports = rewrite(export_onnx(model, folder), path, model.anatomy, None, [FEED], TARGET)
    assert [each.name for each in reports if not each.kept] == ["fuse attention"]
    return path


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", [1, 3])
def test_prompts_and_steps_equal_torch(side, rows, model, rewritten):
    batch = decoded(side, rows, steps=(1, 2, 1))
    assert largest_difference(model, session(rewritten), batch) < 2e-5


def test_the_runtime_hands_both_kinds_of_cache_on_and_returns_to_a_mark(model, rewritten):
    batch = decoded("left", 1)
    expected = by_torch(model, batch)
    decoder = Decoder(session(rewritten))
    assert decoder.past == ["past_conv.0", "past_key_values.1.key", "past_key_values.1.value"]
    for _ in range(2):  # of two sequences none sees the other's
        decoding = decoder.start()
        got = [decoding.feed(batch.tokens[:, :5])]
        mark = decoding.mark()
        decoding.feed(batch.tokens[:, ::-1])
        decoding.rewind(mark)
        got += [decoding.feed(batch.tokens[:, place : place + 1]) for place in range(5, 14)]
        np.testing.assert_allclose(np.concatenate(got, 1), expected, rtol=0, atol=1e-4)


def test_a_checkpoint_is_described_as_its_module_and_read_again(model, tmp_path):
    seen = open_checkpoint(str(model.folder)).anatomy
    assert seen.blocks == model.anatomy.blocks
    assert seen.linears() == model.anatomy.linears()
    assert (seen.attends, len(seen.attentions), model.heads) == (False, 1, [[], [0, 1, 2, 3]])
    save_model(model, tmp_path)
    assert emitted(tmp_path) is None
    batch = make_batch()
    with torch.no_grad():
        again = load_model(tmp_path).module(**batch).logits
        torch.testing.assert_close(again, model.module(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_linear_becomes_integers(weights, tmp_path):
    model = make_model("lfm2", tmp_path / "hf", unequal=False)
    settings = QuantizeSettings(weights=weights)
    quantized = quantize_model(model, [make_batch(rows=2)], settings, TARGET)
    path = tmp_path / "rewritten.onnx"
    rewrite(export_onnx(model, tmp_path), path, model.anatomy, quantized, [FEED], TARGET)
    kinds = ("MatMulInteger", "MatMulNBits")
    products = sum(node.op_type in kinds for node in Graph.load(path).nodes)
    assert products == len(model.anatomy.linears()) - 2  # query, key and value are one


def test_smoothing_changes_no_answer(tmp_path):
    model, batch = make_model("lfm2", tmp_path, unequal=False), make_batch()
    real = batch["attention_mask"] == 1
    with torch.no_grad():
        expected = model.module(**batch).logits[real]
        smoothed = fold_smoothing(model, observe_inputs(model, [batch]), 0.5)
        assert "model.layers.0.conv.in_proj" in smoothed
        got = model.module(**batch).logits[real]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def build(folder: Path, recipe: str, *more: str) -> Result:
    given = ["--model", folder / "hf", "--data", text_file(folder / "t.txt"), *more]
    file = recipe_file(folder / "r.yaml", recipe)
    command = ["build", file, *given, "--output", folder / "out"]
    return CliRunner().invoke(main, list(map(str, command)))


def test_a_build_ends_in_a_bundle_that_generates(tmp_path):
    model_folder(tmp_path / "hf", "lfm2")
    done = build(tmp_path, RECIPE)
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(tmp_path / "out/bundle")
    tokens = list(Generator(bundle).generate_ids([4, 5, 6], Sampling(max_tokens=5)))
    assert 0 < len(tokens) <= 5
    assert all(token < VOCABULARY for token in tokens)


@pytest.mark.parametrize(
    ("section", "which"),
    [
        ("prune: {method: wanda, sparsity: 0.5}", "the prune stage"),
        ("cut: {channels: 0.5}", "the cut stage"),
        ("recover: {steps: 4}", "the recover stage"),
        ("quantize: {method: gptq, weights: int4}", "method: gptq of the quantize stage"),
    ],
)
def test_a_dry_run_says_what_holds_and_refuses_what_does_not(section, which, tmp_path):
    model_folder(tmp_path / "hf", "lfm2")
    said = " ".join(build(tmp_path, RECIPE, "--dry-run").stdout.split())
    assert "traced, as models of type lfm2 are; they are quantized by rounding and run, and" in said
    kept = [line for line in RECIPE.splitlines() if not line.startswith(section.split(":")[0])]
    refused = build(tmp_path, "\n".join([*kept, section]), "--dry-run")
    assert refused.exit_code == 2
    assert f"short convolutions, which {which} does not take" in refused.stderr


def test_channels_are_not_as_many_as_the_configuration_says(tmp_path):
    """Published models say what transformers rounds to a multiple of two thirds of it."""
    import transformers

    config = transformers.Lfm2Config(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        block_multiple_of=8,
        layer_types=["conv", "full_attention"],
    )
    transformers.Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    check_fits(checkpoint)
    assert [part.channels for part in checkpoint.anatomy.feed_forwards] == [64, 64]
