"""An emitted encoder answers as torch does, for every family, head and unequal layers."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import (
    ANSWERERS,
    CLASSIFIERS,
    ENCODERS,
    FILLERS,
    REPEATED,
    TAGGERS,
    VOCABULARY,
    make_batch,
    make_model,
)
from tiny_models import _take as take

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.emit.activations import ACTIVATIONS
from edgeprune.export.emit.decoder import emit_decoder
from edgeprune.export.emit.distance_bias import buckets
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.encoder import emit_encoder
from edgeprune.export.emit.reference import torch_outputs
from edgeprune.export.emit.weights import Weights
from edgeprune.export.emit.writer import path_of
from edgeprune.export.rewrite import run
from edgeprune.export.rewrite.run import Emitted, RewriteError, rewrite
from edgeprune.export.rewrite.verify import largest_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.model import tasks
from edgeprune.model.checkpoint import WEIGHTS, open_checkpoint
from edgeprune.model.families import FAMILIES, find_family
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.plain import make_plain
from edgeprune.model.shapes import set_head_attributes
from edgeprune.model.store import load_model, save_model
from edgeprune.model.tasks import TASKS
from edgeprune.targets import find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")
CLOSE = 1e-5
"""Largest difference over the root mean square: float32 sums in another order."""


def _numpy(batch):
    return {name: value.numpy() for name, value in batch.items()}


def _saved(family, folder, **options):
    """A stage's folder of a tiny model, and the model."""
    model = make_model(family, folder / "hf", **options)
    save_model(model, folder / "stage")
    return folder / "stage", model


def _drift(graph, model, batches):
    batches = [_numpy(batch) for batch in batches]
    return largest_drift(torch_outputs(model, batches), run_graph(graph, batches))


def _longest(model):
    return model.anatomy.max_positions


@pytest.mark.parametrize(
    "family", [*ENCODERS, *CLASSIFIERS, *TAGGERS, *FILLERS, *ANSWERERS, *REPEATED]
)
def test_an_emitted_encoder_equals_torch(family, tmp_path):
    folder, model = _saved(family, tmp_path)
    graph = emitted(folder)
    batches = [make_batch(), make_batch(1, 1), make_batch(4, 40), make_batch(2, _longest(model))]
    assert _drift(graph, model, batches) < CLOSE
    assert graph.outputs == list(TASKS[model.task].outputs)
    with pytest.raises(Exception, match=r"(?i)broadcast|out of|cos_cache"):  # as torch refuses it
        run_graph(graph, [_numpy(make_batch(1, _longest(model) + 1))])


@pytest.mark.parametrize("family", ["bert", "roberta", "electra-classifier", "mpnet"])
def test_inputs_and_outputs_are_those_of_a_trace(family, tmp_path):
    folder, model = _saved(family, tmp_path)
    path = tmp_path / "emitted.onnx"
    emitted(folder).save(path)
    onnx.checker.check_model(str(path), full_check=True)

    def ends(file):
        graph = onnx.load(str(file)).graph
        return [
            [(v.name, v.type.tensor_type) for v in side] for side in (graph.input, graph.output)
        ]

    assert ends(path) == ends(export_onnx(model, tmp_path))


@pytest.mark.parametrize("family", ["bert", "mpnet", "distilbert-classifier"])
def test_padding_on_the_left_and_none_at_all(family, tmp_path):
    folder, model = _saved(family, tmp_path)
    batch = make_batch(3, 13)
    left = {name: values.flip(1) for name, values in batch.items()}
    whole = {"input_ids": batch["input_ids"]}
    graph = emitted(folder)
    assert _drift(graph, model, [left]) < CLOSE
    [got] = run_graph(graph, [{**_numpy(whole), "attention_mask": np.ones((3, 13), np.int64)}])
    with torch.no_grad():
        expected = model.module(**whole)[0].numpy()
    assert np.abs(next(iter(got.values())) - expected).max() < CLOSE * np.abs(expected).max()


def test_padding_has_the_id_that_the_configuration_says(tmp_path):
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=40,
        pad_token_id=7,
    )
    torch.manual_seed(0)
    transformers.RobertaModel(config).save_pretrained(tmp_path / "hf")
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    save_model(model, tmp_path / "stage")
    batch = make_batch(3, 20)
    batch["input_ids"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)
    assert _drift(emitted(tmp_path / "stage"), model, [batch]) < CLOSE


@pytest.mark.parametrize("family", ["bert", "mpnet-classifier"])
def test_weights_of_a_half_are_read_as_they_are(family, tmp_path):
    folder, _ = _saved(family, tmp_path)
    for dtype in (torch.bfloat16, torch.float16):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        model = load_model(folder)
        model.module.float()
        assert _drift(emitted(folder), model, [make_batch()]) < CLOSE


@pytest.mark.parametrize(
    ("family", "architecture"),
    [
        ("bert", "BertForTokenClassification"),
        ("distilbert", "DistilBertForTokenClassification"),
        ("roberta", "RobertaForTokenClassification"),
        ("electra", "ElectraForTokenClassification"),
        ("mpnet", "MPNetForTokenClassification"),
        ("modernbert", "ModernBertForTokenClassification"),
        ("deberta-v2", "DebertaV2ForTokenClassification"),
    ],
)
def test_a_head_for_every_token(family, architecture, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_REFUSED", ())
    torch.manual_seed(0)
    config = make_model(family, tmp_path / "hf", unequal=False).module.config
    config.num_labels = 5
    module = getattr(transformers, architecture)(config).eval()
    batch = make_batch()
    with torch.no_grad():
        expected = module(**batch).logits.numpy()
    make_plain(module, find_family(config.model_type), config.to_dict())
    module.save_pretrained(tmp_path / "tagger")
    checkpoint = open_checkpoint(str(tmp_path / "tagger"))
    anatomy, weights = checkpoint.anatomy, checkpoint.tensors(Weights)
    task = replace(TASKS["text-classification"], logits_axes=3)
    if anatomy.family.encoder:
        graph = emit_encoder(
            anatomy,
            anatomy.family.encoder,
            checkpoint.config,
            weights,
            task,
            [range(4)] * 2,
            plain_sums=False,
        )
    else:
        graph = emit_decoder(anatomy, checkpoint.config, weights, task, plain_sums=False)
    kept = batch["attention_mask"].numpy() == 1
    [got] = run_graph(graph, [_numpy(batch)])
    assert got["logits"].shape == (3, 11, 5)
    assert np.abs(got["logits"] - expected)[kept].max() < CLOSE * np.abs(expected).max()


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_layer_may_have_sizes_of_its_own(data):
    family = data.draw(st.sampled_from([*ENCODERS, "mpnet-classifier", "albert"]), label="family")
    rows, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 60))
    with tempfile.TemporaryDirectory() as name:
        model = make_model(family, Path(name) / "hf", unequal=False, layers=3)
        channel = 0
        for layer, block in enumerate(model.anatomy.blocks):
            heads = sorted(data.draw(st.sets(st.integers(0, 3), min_size=1), label="heads"))
            channels = torch.arange(data.draw(st.integers(1, 40), label="channels"))
            attention, part = block.attention, block.feed_forward
            kept = torch.cat([torch.arange(8) + 8 * head for head in heads])
            text = (attention.query, attention.key, attention.value)
            for linear in (*text, *attention.of_distances):
                take(model.linear(linear), kept, dim=0)
            take(model.linear(attention.output), kept, dim=1)
            for up in filter(None, (part.gate, part.up)):
                take(model.linear(up), channels, dim=0)
            take(model.linear(part.down), channels, dim=1)
            model.heads[layer], model.channels[channel + layer] = heads, channels.tolist()
        set_head_attributes(model)
        save_model(model, Path(name) / "stage")
        graph = emitted(Path(name) / "stage", plain_sums=data.draw(st.booleans()))
        assert _drift(graph, model, [make_batch(rows, max(tokens, rows))]) < CLOSE


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_transformers(name, tmp_path):
    folder, model = _saved("bert", tmp_path)
    model.config["hidden_act"] = name
    for layer in model.module.encoder.layer:
        layer.intermediate.intermediate_act_fn = transformers.activations.ACT2FN[name]
    save_model(model, folder)
    assert _drift(emitted(folder), model, [make_batch()]) < CLOSE


@pytest.mark.parametrize(
    ("setting", "value"), [("hidden_act", "gelu_10"), ("position_embedding_type", "relative_key")]
)
def test_settings_that_are_not_known_are_left_to_the_trace(setting, value, tmp_path):
    folder, model = _saved("bert", tmp_path)
    assert emitted(folder) is not None
    model.config[setting] = value
    save_model(model, folder)
    assert emitted(folder) is None


def test_every_family_has_an_emitter_for_what_it_is():
    assert [f.model_types[0] for f in FAMILIES if f.encoder] == [
        *("bert", "electra", "roberta", "distilbert", "mpnet", "albert", "deberta-v2", "deberta")
    ]
    others = [f for f in FAMILIES if not f.encoder and not f.convolution]
    assert others == [f for f in FAMILIES if f.decoder]


def test_buckets_are_those_of_transformers():
    [bias] = [f.encoder.distance_bias for f in FAMILIES if f.encoder and f.encoder.distance_bias]
    distances = torch.arange(-600, 601)
    expected = transformers.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket(
        distances, num_buckets=32
    )
    np.testing.assert_array_equal(buckets(distances.numpy(), bias), expected.numpy())


def test_paths_are_a_tracers():
    assert path_of("encoder.layer.0.output.dense") == "/encoder/layer.0/output/dense"
    assert path_of("bert.encoder.layer.11") == "/bert/encoder/layer.11"
    assert path_of("classifier") == "/classifier"


# Rewriting -------------------------------------------------------------------------------------

_SIZES = {
    *(
        "Shape",
        "Gather",
        "GatherElements",
        "Slice",
        "Unsqueeze",
        "Concat",
        "Reshape",
        "Expand",
        "ConstantOfShape",
    ),
    *("Cast", "Equal", "Not", "CumSum", "Where", "Range", "Sub", "Add", "Mul", "Sum", "Neg", "Abs"),
    *("Less", "Log", "Div", "Min", "Transpose", "Gemm", "MatMul", "Squeeze"),
}
"""Operators with which positions and sizes are computed, or which two forms of a head have."""


@pytest.mark.parametrize(
    ("family", "formats"),
    [
        ("bert", {"weights": "int8"}),
        ("bert", {"weights": "int4"}),
        ("bert", {"activations": "token"}),
        ("bert", {"activations": "static"}),
        ("bert", {"weights": "none"}),
        ("roberta-classifier", {"weights": "int8"}),
        ("distilbert-classifier", {"weights": "int4", "symmetric": False}),
        ("electra", {"weights": "int8"}),
        ("mpnet", {"weights": "int8"}),
        ("bert-filler", {"weights": "int8"}),
        ("distilbert-filler", {"weights": "int8", "embeddings": False}),
        ("roberta-filler", {"weights": "int4", "head": False}),
        ("albert", {"weights": "int8"}),
        ("albert", {"activations": "token"}),
        ("albert-classifier", {"weights": "int4", "symmetric": False}),
    ],
)
def test_plans_lower_as_on_a_trace(family, formats, tmp_path):
    model = make_model(family, tmp_path / "hf")
    batch = make_batch(rows=1)
    options = QuantizeSettings(massive_activations="none", **formats)
    quantized = quantize_model(model, [batch], options, VNNI)
    save_model(model, tmp_path / "stage")
    batches = [_numpy(batch)]
    raw = export_onnx(model, tmp_path)
    rewrite(raw, tmp_path / "traced.onnx", model.anatomy, quantized, batches, VNNI)
    start = Emitted(emitted(tmp_path / "stage", True), torch_outputs(model, batches))
    path = tmp_path / "emitted.onnx"
    reports = rewrite(start, path, model.anatomy, quantized, batches, VNNI)
    first = reports[0]
    assert (first.name, first.kept, first.tolerance) == ("emit", True, 1e-4)
    assert first.nodes == first.changed > 60
    assert first.drift < CLOSE
    assert all(report.kept for report in reports)
    graphs = [onnx.load(str(file)).graph for file in (tmp_path / "traced.onnx", path)]
    counts = [Counter(n.op_type for n in g.node if n.op_type not in _SIZES) for g in graphs]
    assert counts[0] == counts[1]
    assert len(graphs[1].node) <= len(graphs[0].node)
    tables = [
        sorted((t.data_type, *t.dims) for t in g.initializer if len(t.dims) > 1) for g in graphs
    ]
    of_integers = [[t for t in each if t[0] in (2, 3)] for each in tables]
    assert of_integers[0] == of_integers[1]
    outputs = [run_graph(run.Graph.load(f), batches) for f in (tmp_path / "traced.onnx", path)]
    assert largest_drift(*outputs) < 0.05  # a code may fall either way


def test_an_emitter_that_writes_another_model_cannot_ship(tmp_path):
    folder, model = _saved("bert", tmp_path)
    batches = [_numpy(make_batch())]
    graph = emitted(folder)
    norm = next(
        name for name in graph.initializers if name.endswith("layer.1.output.LayerNorm.bias")
    )
    value = graph.constant(norm).copy()
    value[0] += 1e-3
    graph.add_constant(norm, value)
    start = Emitted(graph, torch_outputs(model, batches))
    with pytest.raises(RewriteError, match=r"differs by .* from what torch answers"):
        rewrite(start, tmp_path / "o.onnx", model.anatomy, None, batches, VNNI)
    assert not (tmp_path / "o.onnx").exists()
