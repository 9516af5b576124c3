"""Models whose layers run again with the same weights: stored once, and refused where a method goes
from one layer to the next."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from prospects import facts_of
from tiny_builds import RECIPE, model_folder, recipe_file, sentence_lines, text_file
from tiny_models import make_batch, make_model
from without_measuring import leave_out_measuring

import edgeprune
from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.compress.load.row import LOAD
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import torch_outputs
from edgeprune.export.rewrite.run import Emitted, rewrite
from edgeprune.export.trace import export_onnx
from edgeprune.measure.inspect.layers import stored_bytes, stored_layers
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.fits import check_fits
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.recipe import validate
from edgeprune.runtime.onnx_graph import parse_graph
from edgeprune.runtime.session import open_session
from edgeprune.targets import find

torch.set_num_threads(1)
TARGET = find("x86-avx512-vnni")
LINEARS = 2 * 6
"""In the files: two layers, each with the four linears of attention and two of feed-forward."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("albert") / "model", "albert")


def _with(folder, place, **settings):
    """The same files under other settings; None leaves one out."""
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | settings
    kept = {name: value for name, value in config.items() if value is not None}
    (place / "config.json").write_text(json.dumps(kept))
    return place


def _lowered(folder, place, traced):
    """The INT8 graph of a model, and the one it was lowered from."""
    model = import_checkpoint(open_checkpoint(str(folder)))
    batches = [{name: value.numpy() for name, value in make_batch().items()}]
    settings = QuantizeSettings(massive_activations="none")
    quantized = quantize_model(model, [make_batch()], settings, TARGET)
    save_model(model, place / "stage")
    if traced:
        start = export_onnx(model, place)
    else:
        start = Emitted(emitted(place / "stage"), torch_outputs(model, batches))
    path = place / "lowered.onnx"
    reports = rewrite(start, path, model.anatomy, quantized, batches, TARGET)
    assert all(report.kept for report in reports)
    return onnx.load(str(path)).graph


@pytest.mark.parametrize("traced", [False, True])
def test_every_product_is_lowered_and_every_code_stored_once(traced, folder, tmp_path):
    graphs = {}
    for times in (2, 5):
        model = _with(folder, tmp_path / f"{times}", num_hidden_layers=times)
        graphs[times] = _lowered(model, tmp_path / f"{times}-out", traced)
    read = {
        times: parse_graph(helper.make_model(graph).SerializeToString()).graph
        for times, graph in graphs.items()
    }
    stored = {times: stored_bytes(graph) for times, graph in read.items()}
    # Nodes on sizes have a few integers each.
    assert stored[5] - stored[2] < 2_000
    for times, graph in graphs.items():
        counts = Counter(node.op_type for node in graph.node)
        products = LINEARS - 2 * 2  # query, key and value of a layer are one product
        assert counts["MatMulInteger"] == times * products
        assert counts["MatMul"] - times * 2 * 2 == 1  # the projection of the embeddings
        codes = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
        assert len(codes) == products + 2  # and two tables
        listed = [one.name for one in stored_layers(read[times]) if one.operator == "MatMulInteger"]
        assert len(set(listed)) == len(listed) == products


def test_a_model_without_repeats_is_the_same_as_one_whose_weights_are_copied(folder, tmp_path):
    """An oracle from torch alone: twice as many layers that run once."""
    model = import_checkpoint(open_checkpoint(str(folder)))
    assert model.anatomy.repeats == 2
    other = make_model("albert", tmp_path / "hf", unequal=False, layers=4).module
    other.config.num_hidden_layers = 1
    own, copied = model.module.state_dict(), other.state_dict()
    for name in copied:
        head, inside, tail = name.partition("albert_layers.")
        layer, _, path = tail.partition(".")
        copied[name] = own[f"{head}{inside}{int(layer) % 2}.{path}" if inside else name]
    other.load_state_dict(copied)
    batch = make_batch()
    save_model(model, tmp_path / "stage")
    path = tmp_path / "o.onnx"
    emitted(tmp_path / "stage").save(path)
    session = open_session(path)
    feed = {name: value.numpy() for name, value in batch.items()}
    feed["token_type_ids"] = np.zeros_like(feed["input_ids"])
    with torch.no_grad():
        expected = other(**batch).last_hidden_state.numpy()
    kept = feed["attention_mask"] == 1
    [got] = session.run(None, feed)
    assert np.abs(got - expected)[kept].max() < 1e-5


def test_a_graph_in_which_a_time_has_another_name_is_not_lowered_in_part(folder, tmp_path):
    model = import_checkpoint(open_checkpoint(str(folder)))
    batches = [{name: value.numpy() for name, value in make_batch().items()}]
    settings = QuantizeSettings(massive_activations="none")
    quantized = quantize_model(model, [make_batch()], settings, TARGET)
    save_model(model, tmp_path / "stage")
    graph = emitted(tmp_path / "stage")
    for node in graph.nodes:
        node.name = node.name.replace("ffn_1/", "ffn_again/")
    start = Emitted(graph, torch_outputs(model, batches))
    words = r"has 1 products named for encoder\..*\.ffn, whose layer runs 2 times"
    with pytest.raises(UserError, match=words):
        rewrite(start, tmp_path / "o.onnx", model.anatomy, quantized, batches, TARGET)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantize": {"method": "gptq"}}, "method: gptq of the quantize stage"),
        ({"quantize": {"weights": "mixed"}}, "weights: mixed of the quantize stage"),
        ({"prune": {"method": "wanda"}}, "method: wanda of the prune stage"),
        ({"prune": {"method": "nap"}}, "method: nap of the prune stage"),
        ({"prune": {"method": "search"}}, "method: search of the prune stage"),
        ({"sparsify": {"method": "sparsegpt"}}, "method: sparsegpt of the sparsify stage"),
        ({"cut": {"layers": 1}}, "layers of the cut stage"),
        ({"cut": {"channels": 0.5, "compensate": True}}, "compensate of the cut stage"),
    ],
)
def test_what_goes_from_layer_to_layer_is_refused(settings, words, folder, tmp_path):
    recipe = validate({**settings, "measure": {"tokens": 12}}, "r")

    def refuse(facts):
        for stage in recipe.stages:
            stage.refuse(recipe.settings.get(stage.name), facts)

    with pytest.raises(UserError, match=f"run 2 times with the same weights, and {words}"):
        refuse(facts_of(recipe, open_checkpoint(str(folder))))
    once = _with(folder, tmp_path / "once", num_hidden_layers=1)
    refuse(facts_of(recipe, open_checkpoint(str(once))))


def test_no_text_is_walked_through_such_layers(folder):
    with pytest.raises(UserError, match="run 2 times with the same weights, and no text can be"):
        Walk(import_checkpoint(open_checkpoint(str(folder))), [make_batch()])


def test_the_layers_of_the_files_are_those_that_the_configuration_says(folder, tmp_path):
    cases = {
        "num_hidden_groups": (2, "num_hidden_groups is 2, and of models of type albert only"),
        "inner_group_num": (1, "says inner_group_num 1, and its weights hold 2"),
        "num_hidden_layers": (None, r"config\.json does not say num_hidden_layers"),
    }
    for setting, (value, words) in cases.items():
        place = _with(folder, tmp_path / setting, **{setting: value})
        with pytest.raises(UserError, match=words):
            check_fits(open_checkpoint(str(place)))


def test_the_dry_run_says_how_often_layers_run(folder):
    facts = facts_of(validate({}, "r"), open_checkpoint(str(folder)))
    assert "2 layers, run 2 times, of 8 heads" in LOAD.would(None, facts)[0]


@pytest.mark.parametrize(
    ("family", "file"), [("albert", "text.txt"), ("albert-classifier", "labelled.jsonl")]
)
def test_a_build_prunes_cuts_recovers_and_quantizes_it(family, file, tmp_path, monkeypatch):
    leave_out_measuring(monkeypatch)
    folder, text = model_folder(tmp_path / "model", family), text_file(tmp_path / file)
    recipe = recipe_file(tmp_path / "r.yaml", RECIPE)
    bundle = edgeprune.build(folder, text, recipe, output=tmp_path / "out")
    stages = {stage["name"]: stage for stage in bundle.manifest["stages"]}
    assert sum(stages["cut"]["channels"]) == 2 * 40 // 2
    assert sum(stages["cut"]["heads"]) == 2 * 4 // 2
    passes = {one["name"]: one for one in stages["rewrite"]["passes"]}
    assert all(one["kept"] for one in passes.values())
    assert passes["emit"]["drift"] < 1e-5
    head = 0 if family == "albert" else 3  # pooler, labels, and what widens the embeddings
    assert passes["int8 linears"]["changed"] == 2 * LINEARS + head
    # The runtime beside torch with the weights that were rounded: only activations differ.
    model = load_model(next((tmp_path / "out" / "stages").glob("quantize-*")))
    answering, lines = edgeprune.load(bundle, threads=1), sentence_lines(5)
    answers = answering.logits(lines) if head else answering.embed(lines)
    for line, got in zip(lines, answers, strict=True):
        [tokens] = answering.tokenizer.encode([line])
        with torch.no_grad():
            output = model.module(torch.tensor([tokens.ids]))[0][0].numpy()
        expected = output if head else output.mean(0)
        assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)
