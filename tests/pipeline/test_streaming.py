"""Builds whose weights stay on disk, beside the same builds of the whole model."""

import os

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from tiny_builds import model_folder, recipe_file, text_file
from without_measuring import leave_out_measuring

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import states
from edgeprune.export.rewrite.by_block import rewrite_by_block
from edgeprune.export.rewrite.run import RewriteError
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, stream_checkpoint
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline import streaming
from edgeprune.pipeline.build import prepare
from edgeprune.pipeline.recipe import read_recipe
from edgeprune.pipeline.run import run
from edgeprune.runtime.bundle import MANIFEST
from edgeprune.targets import detect

TEXT = "text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}\n"
MEASURE = "measure: {tokens: 12}\n"
ROUNDED = "quantize: {activations: token, massive_activations: none, calibration_samples: 4}\n"
INT4 = "quantize: {weights: int4, group: 16, calibration_samples: 4, %s}\n"
RECIPES = {
    "float32": "",
    "int8": ROUNDED,
    "observed": "quantize: {calibration_samples: 4}\n",
    "int4": INT4 % "symmetric: false, clip: mse",
    "gptq": INT4 % "method: gptq",
    "hqq": INT4 % "method: hqq",
    "wanda": "prune: {method: wanda, sparsity: 0.5, samples: 4}\n" + INT4 % "method: gptq",
    "sparsegpt": 'prune: {method: sparsegpt, pattern: "2:4", sparsity: 0.5, samples: 4}\n'
    + ROUNDED,
    "channels": "cut: {channels: 0.25, score: flap, compensate: true, samples: 8}\n" + ROUNDED,
    "heads": "cut: {heads: 0.5, channels: 0.25, score: magnitude}\n" + ROUNDED,
    "blocks": "prune: {method: magnitude, pattern: 4x16, sparsity: 0.5, samples: 4}\n"
    + "quantize: {activations: token, massive_activations: none, sparse: whole}\n",
}


WALKED = ("llama", "untied", "mistral", "gemma2", "phi3", "gpt2", "gpt_neox")
ROUNDED_ALONE = ("mixtral", "qwen2_moe")


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch):
    leave_out_measuring(monkeypatch)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming")
    text_file(folder / "text.txt")
    for family in (*WALKED, *ROUNDED_ALONE):
        model_folder(folder / family, family)
    return folder


def build(places, family, recipe, streamed, name=""):
    """The output folder of a build."""
    content = f"name: tiny\n{TEXT}{MEASURE}load: {{streamed: {streamed}}}\n{recipe}"
    file = recipe_file(places / "recipe.yaml", content)
    output = places / f"{name or family}-{streamed}-{abs(hash(recipe))}"
    data = (str(places / "text.txt"),)
    run(prepare(read_recipe(str(file)), str(places / family), data, output))
    return output


@pytest.mark.parametrize("name", RECIPES)
def test_a_streamed_build_makes_the_same_graph(name, places):
    graphs = [
        (build(places, "untied", RECIPES[name], streamed) / "bundle/onnx/model.onnx").read_bytes()
        for streamed in ("true", "false")
    ]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("family", [*WALKED[:1], *WALKED[2:]])
def test_so_it_does_of_other_families(family, places):
    graphs = [
        (build(places, family, RECIPES["gptq"], streamed) / "bundle/onnx/model.onnx").read_bytes()
        for streamed in ("true", "false")
    ]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("family", ROUNDED_ALONE)
def test_so_it_does_of_what_is_stored_stacked(family, places):
    graphs = [
        (build(places, family, RECIPES["int4"], streamed) / "bundle/onnx/model.onnx").read_bytes()
        for streamed in ("true", "false")
    ]
    assert graphs[0] == graphs[1]


def test_half_precision_stays_what_it_is_on_disk(places):
    """What Wanda keeps is exact in any type, so that the graphs are the same; the folders of a
    streamed model hold its weights as the model's own file does."""
    model = safetensors.torch.load_file(places / "untied/model.safetensors")
    folder = places / "half"
    model_folder(folder, "untied")
    half = {name: tensor.to(torch.bfloat16) for name, tensor in model.items()}
    safetensors.torch.save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    outputs = [build(places, "half", RECIPES["wanda"], streamed) for streamed in ("true", "false")]
    graphs = [(output / "bundle/onnx/model.onnx").read_bytes() for output in outputs]
    assert graphs[0] == graphs[1]
    [pruned] = outputs[0].glob("stages/prune-*/model.layers.0.safetensors")
    tensors = safetensors.torch.load_file(pruned)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_nothing_is_written_of_what_does_not_change(places):
    output = build(places, "untied", RECIPES["int8"], "true", "written")
    weights = (places / "untied/model.safetensors").stat().st_size
    for stage in ("load", "export"):
        [folder] = output.glob(f"stages/{stage}-*")
        written = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        written += sum(file.stat().st_size for file in folder.rglob("*.onnx*"))
        assert written < weights / 4
    assert not (output / "original").exists()
    assert not (output / "report.html").exists()


def test_the_manifest_says_that_nothing_was_measured(places):
    output = build(places, "untied", RECIPES["int8"], "true")
    manifest = (output / "bundle" / MANIFEST).read_text()
    assert "it was not measured beside this bundle" in manifest
    given = ["run", str(output / "bundle"), "w001 w002", "--max-tokens", "2", "--raw"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output


def test_what_needs_the_whole_model_is_refused_where_streaming_is_asked_for(places):
    for recipe, said in {
        "recover: {steps: 2}\n": "recover needs the whole model in memory",
        "quantize: {weights: mixed}\n": "quantize.weights: mixed needs the whole",
        "quantize: {smooth: 0.5}\n": "quantize.smooth needs the whole",
        "prune: {method: nap, sparsity: 0.5}\n": "prune.method: nap needs the whole",
        "require: {speedup: 2}\n": "require.speedup cannot be judged",
    }.items():
        with pytest.raises(UserError, match=said):
            build(places, "untied", recipe, "true")


def test_encoders_are_not_streamed(places):
    model_folder(places / "bert", "bert")
    with pytest.raises(UserError, match="only decoders whose graph is emitted"):
        build(places, "bert", "", "true")


@pytest.mark.parametrize(
    ("recipe", "streamed"), [(ROUNDED, True), ("recover: {steps: 2}\n", False)]
)
def test_a_large_model_is_streamed_where_no_stage_needs_it_whole(
    recipe, streamed, places, monkeypatch
):
    file = recipe_file(places / "auto.yaml", f"name: tiny\n{TEXT}{MEASURE}{recipe}")
    given = read_recipe(str(file)), str(places / "untied"), (str(places / "text.txt"),)
    assert not prepare(*given, places / "auto").context.streamed
    monkeypatch.setattr(streaming, "_LARGE", 1000)
    assert prepare(*given, places / "auto").context.streamed is streamed


def test_a_file_that_was_changed_since_is_refused(places, tmp_path):
    model_folder(tmp_path / "model", "untied")
    save_model(stream_checkpoint(open_checkpoint(str(tmp_path / "model"))), tmp_path / "load")
    load_model(tmp_path / "load")
    os.utime(tmp_path / "model/model.safetensors", (1, 1))
    with pytest.raises(UserError, match=r"model.safetensors was removed or changed since"):
        load_model(tmp_path / "load")


def test_a_weight_that_is_not_finite_is_named(places, tmp_path):
    model_folder(tmp_path, "untied")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"NaN or infinity in model.layers.1.mlp.up_proj.weight"):
        stream_checkpoint(open_checkpoint(str(tmp_path)))


def test_a_model_that_lacks_a_weight_is_refused(places, tmp_path):
    model_folder(tmp_path, "untied")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.input_layernorm.weight"]
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not whole: model.layers.1.input_layernorm.weight"):
        stream_checkpoint(open_checkpoint(str(tmp_path)))


def test_a_streamed_model_answers_as_the_whole_one(places):
    checkpoint = open_checkpoint(str(places / "llama"))
    batch = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.ones(2, 6).long()}
    with torch.no_grad():
        answers = [
            read(checkpoint).run(batch).logits for read in (stream_checkpoint, import_checkpoint)
        ]
    assert torch.equal(*answers)


def test_a_layer_that_is_written_wrongly_stops_the_build(places, tmp_path):
    save_model(stream_checkpoint(open_checkpoint(str(places / "untied"))), tmp_path)
    model, graph = load_model(tmp_path), emitted(tmp_path)
    ids = np.arange(12).reshape(1, 12)
    seen = states(model, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}])
    rewrite_by_block(graph, tmp_path / "right.onnx", model.anatomy, None, seen, detect())
    weight = "model.layers.1.mlp.down_proj.weight.transposed"
    graph.add_constant(weight, graph.constant(weight) * np.float32(1.001))
    with pytest.raises(RewriteError, match=r"the pass 'emit' differs by 0.000"):
        rewrite_by_block(graph, tmp_path / "wrong.onnx", model.anatomy, None, seen, detect())


class TestOpening:
    @pytest.fixture
    def model(self, places, tmp_path):
        save_model(stream_checkpoint(open_checkpoint(str(places / "untied"))), tmp_path / "load")
        (tmp_path / "changed").mkdir()
        return load_model(tmp_path / "load", changes=tmp_path / "changed")

    def test_weights_are_there_while_a_block_is_open(self, model):
        name = "model.layers.0.mlp.up_proj"
        assert model.linear(name).weight.is_meta
        with model.opened("model.layers.0"):
            assert not model.linear(name).weight.is_meta
            assert model.linear("model.layers.1.mlp.up_proj").weight.is_meta
        assert model.linear(name).weight.is_meta

    def test_changes_are_kept_and_others_stay(self, model):
        name = "model.layers.0.mlp.up_proj"
        with model.opened("model.layers.0"), torch.no_grad():
            before = model.linear("model.layers.0.mlp.down_proj").weight.clone()
            model.linear(name).weight.zero_()
        with model.opened("model.layers.0"):
            assert not model.linear(name).weight.any()
            assert torch.equal(model.linear("model.layers.0.mlp.down_proj").weight, before)

    def test_a_change_beside_an_opening_is_noticed(self, model, tmp_path):
        with torch.no_grad():
            model.linear("model.layers.0.mlp.up_proj").weight.zero_()
        with pytest.raises(RuntimeError, match="while its weights were not in memory"):
            save_model(model, tmp_path / "saved")

    def test_an_error_leaves_nothing_open(self, model):
        with pytest.raises(ZeroDivisionError), model.opened("model.layers.0"):
            1 / 0  # noqa: B018
        assert model.linear("model.layers.0.mlp.up_proj").weight.is_meta
