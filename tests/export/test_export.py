"""The exported graph answers as torch does, for every family and for layers of unequal size."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from few import few
from tiny_builds import model_folder
from tiny_models import (
    DECODERS,
    ENCODERS,
    MIXTURES,
    POST_NORMED,
    VOCABULARY,
    make_batch,
    make_model,
)

from edgeprune.base.errors import UserError
from edgeprune.export.attention import attention, our_attention
from edgeprune.export.faces import Attended, Convolved, generating
from edgeprune.export.rewrite.verify import calls, complete_feed, without_padding
from edgeprune.export.trace import export_onnx, export_plain, trace
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import save_model

torch.set_num_threads(1)


def _session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("family", [*ENCODERS, "albert"])
def test_encoder_equals_torch(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    session = _session(export_onnx(model, tmp_path / "onnx"))
    batch = make_batch()
    with torch.no_grad():
        expected = model.module(**batch)[0].numpy()
    feed = complete_feed(session, {name: value.numpy() for name, value in batch.items()})
    got = session.run(None, feed)[0]
    assert session.get_outputs()[0].name == (
        "logits" if family == "classifier" else "last_hidden_state"
    )
    kept = slice(None) if family == "classifier" else batch["attention_mask"].numpy() == 1
    assert np.abs(got[kept] - expected[kept]).max() < 1e-4


TRACED = [*DECODERS, "phi-grouped", "phi3-partial", "granite", *POST_NORMED, *MIXTURES]


@pytest.mark.parametrize("family", TRACED)
def test_decoder_with_cache_equals_torch(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=family not in MIXTURES)
    session = _session(export_onnx(model, tmp_path / "onnx"))
    tokens = make_batch(rows=2)["input_ids"]
    with torch.no_grad():
        expected = model.module(tokens).logits.numpy()
    names = [output.name for output in session.get_outputs()]
    assert "past_key_values.1.value" in {value.name for value in session.get_inputs()}
    first = complete_feed(session, {"input_ids": tokens[:, :7].numpy()})
    results = dict(zip(names, session.run(None, first), strict=True))
    assert np.abs(results["logits"] - expected[:, :7]).max() < 1e-4
    second = {
        "input_ids": tokens[:, 7:].numpy(),
        "attention_mask": np.ones(tokens.shape, np.int64),
        "position_ids": np.tile(np.arange(7, tokens.shape[1]), (2, 1)),
    }
    for name in names[1:]:
        second[name.replace("present", "past_key_values")] = results[name]
    asked = {value.name for value in session.get_inputs()}
    second = {name: value for name, value in second.items() if name in asked}
    got = session.run(["logits"], second)[0]
    assert np.abs(got - expected[:, 7:]).max() < 1e-4


def test_what_cannot_be_traced_is_a_sentence_and_nothing_else(tmp_path, capfd):
    model = make_model("bert", tmp_path / "hf")
    model.module.embeddings.register_forward_hook(lambda *given: given[-1] + given[-1].histc(1))
    capfd.readouterr()
    with pytest.raises(UserError, match=r"BertModel cannot be traced .+'aten::histc'"):
        export_onnx(model, tmp_path / "onnx")
    assert capfd.readouterr().out == ""


def test_a_convolution_s_cache_goes_in_and_comes_out(tmp_path):
    """Names as hybrid decoders have them on the hub; values as of the whole text at once."""
    config = transformers.Lfm2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        layer_types=["conv", "full_attention"],
    )
    torch.manual_seed(0)
    module = transformers.Lfm2ForCausalLM(config).eval()
    layers = [Convolved(32, config.conv_L_cache), Attended(2, 8)]
    session = _session(trace(module, generating(module, "logits", layers), tmp_path / "m.onnx"))
    tokens = make_batch(rows=2)["input_ids"]
    with torch.no_grad():
        expected = module(tokens).logits.numpy()
    outputs = ["logits", "present_conv.0", "present.1.key", "present.1.value"]
    assert [value.name for value in session.get_outputs()] == outputs
    cache = [np.zeros(size, np.float32) for size in ((2, 32, 3), (2, 2, 0, 8), (2, 2, 0, 8))]
    for start, end in ((0, 6), (6, 7), (7, tokens.shape[1])):
        positions = np.tile(np.arange(start, end), (2, 1))
        feed = {
            "input_ids": tokens[:, start:end].numpy(),
            "attention_mask": np.ones((2, end), np.int64),
            "position_ids": positions,
            "past_conv.0": cache[0],
            "past_key_values.1.key": cache[1],
            "past_key_values.1.value": cache[2],
        }
        logits, *cache = session.run(outputs, feed)
        assert np.abs(logits - expected[:, start:end]).max() < 1e-4


def test_attention_s_sinks_are_refused():
    heads = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match="sinks"):
        attention(torch.nn.Identity(), heads, heads, heads, None, s_aux=torch.zeros(2))


@pytest.mark.parametrize("family", few(["bert", "classifier", "roberta", "mpnet"], ["classifier"]))
def test_the_newer_tracer_reads_the_same(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    session = _session(export_onnx(model, tmp_path / "onnx", dynamo=True))
    for rows, tokens in ((1, 3), (4, 40)):
        batch = make_batch(rows, tokens)
        with torch.no_grad():
            expected = model.module(**batch)[0].numpy()
        feed = complete_feed(session, {name: value.numpy() for name, value in batch.items()})
        got = session.run(None, feed)[0]
        kept = slice(None) if family == "classifier" else batch["attention_mask"].numpy() == 1
        assert np.abs(got[kept] - expected[kept]).max() < 1e-4


@pytest.mark.parametrize("family", few(["llama", "mistral-fused"], ["llama"]))
def test_the_newer_tracer_generates_the_same(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    older, newer = (
        _session(export_onnx(model, tmp_path / str(dynamo), dynamo=dynamo))
        for dynamo in (False, True)
    )
    for side in ("get_inputs", "get_outputs"):
        named = [[value.name for value in getattr(each, side)()] for each in (older, newer)]
        assert named[0] == named[1]
    batch = {name: value.numpy() for name, value in make_batch().items()}
    for (feed, expected), (_, got) in zip(calls(older, batch), calls(newer, batch), strict=True):
        wanted, made = (without_padding(values, feed) for values in (expected, got))
        for name, values in wanted.items():
            np.testing.assert_allclose(made[name], values, atol=1e-4)


def test_inner_configurations_are_left_as_they_were():
    towers = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    )
    module = transformers.CLIPModel(towers)
    module.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    parts = (towers, towers.text_config, towers.vision_config)
    before = [each._attn_implementation for each in parts]
    assert before[1:] == ["eager", "sdpa"]
    with our_attention(module):
        assert {each._attn_implementation for each in parts} == {"edgeprune"}
    assert [each._attn_implementation for each in parts] == before


def test_a_module_is_left_as_it_was(tmp_path):
    model = make_model("llama", tmp_path / "hf")
    before = model.module.config._attn_implementation, model.module.forward
    export_onnx(model, tmp_path / "onnx")
    assert (model.module.config._attn_implementation, model.module.forward) == before


@pytest.mark.parametrize("family", few(["bert", "llama", "mistral-fused"], ["bert", "llama"]))
def test_our_attention_traces_less_than_a_plain_trace(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    plain, ours = (
        onnx.load(export_onnx(model, tmp_path / str(plain), plain)) for plain in (True, False)
    )
    assert len(ours.graph.node) < len(plain.graph.node)
    operators = {node.op_type for node in ours.graph.node}
    assert not operators & {"IsNaN", "GatherND"}


def test_batch_and_length_stay_dynamic(tmp_path):
    model = make_model("bert", tmp_path / "hf")
    session = _session(export_onnx(model, tmp_path / "onnx"))
    for rows, tokens in ((1, 3), (4, 40)):
        batch = make_batch(rows, tokens)
        with torch.no_grad():
            expected = model.module(**batch)[0].numpy()
        feed = complete_feed(session, {name: value.numpy() for name, value in batch.items()})
        got = session.run(None, feed)[0]
        kept = batch["attention_mask"].numpy() == 1
        assert np.abs(got[kept] - expected[kept]).max() < 1e-4


def test_plain_export_is_a_runnable_folder(tmp_path, capfd):
    model = import_checkpoint(open_checkpoint(str(model_folder(tmp_path / "hf", "distilbert"))))
    save_model(model, tmp_path / "cut")
    path = export_plain(tmp_path / "cut", tmp_path / "plain")
    assert path == tmp_path / "plain/onnx/model.onnx"
    assert (tmp_path / "plain/config.json").exists()
    assert (tmp_path / "plain/tokenizer.json").exists()
    weights = {t.name for t in onnx.load(str(path)).graph.initializer}
    assert "embeddings.word_embeddings.weight" in weights
    captured = capfd.readouterr()
    assert "Warning" not in captured.err + captured.out
