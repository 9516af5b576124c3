"""The fused attention and its cache, with the plain export as the reference."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from rewritten_models import VNNI, rewriter
from tiny_models import FUSED_DECODERS, VOCABULARY, make_batch, make_model

from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.grouped_attention import fuse_attention
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.verify import complete_feed, largest_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.runtime import cache
from edgeprune.runtime.bundle import oldest_onnxruntime
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.names import FUSED_ATTENTION
from edgeprune.runtime.onnx_file import read_outline

torch.set_num_threads(1)
STEPS = 24


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return rewriter(tmp_path_factory, make_batch())


def _session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _logits(path, tokens):
    """What the plain export gives for whole sequences, without a cache."""
    session = _session(path)
    return session.run(["logits"], complete_feed(session, {"input_ids": tokens}))[0]


def _tokens(rows, count, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, count))


@pytest.mark.parametrize("family", FUSED_DECODERS)
def test_every_layer_is_one_operator_with_its_own_heads(family, build):
    built = build(family)
    assert all(report.kept for report in built.reports)
    assert "lay out attention" not in [report.name for report in built.reports]
    graph = Graph.load(built.path)
    fused = [node for node in graph.nodes if node.op_type == FUSED_ATTENTION]
    counts = [{a.name: a.i for a in node.attribute} for node in fused]
    assert [(c["num_heads"], c["kv_num_heads"]) for c in counts] == [(2, 2), (4, 2)]
    assert not {"Softmax", "Concat"} & {
        node.op_type for node in graph.nodes if "layers" in node.name
    }


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", FUSED_DECODERS)
def test_decoding_in_place_equals_the_plain_export(family, rows, build, monkeypatch):
    built = build(family)
    monkeypatch.setattr(cache, "_ROOM", 5)  # so that the buffers grow several times
    tokens = _tokens(rows, 9 + STEPS)
    expected = _logits(built.plain, tokens)
    decoding = Decoder(_session(built.path)).start(rows)
    got = [decoding.feed(tokens[:, :9])]
    buffers = set()
    for step in range(9, 9 + STEPS):
        got.append(decoding.feed(tokens[:, step : step + 1]))
        buffers.add(next(iter(decoding.mark()[1].values())).data_ptr())
    assert np.abs(np.concatenate(got, axis=1) - expected).max() < 1e-4
    assert 2 <= len(buffers) < STEPS  # rows are written where they are


@pytest.mark.parametrize("family", FUSED_DECODERS)
def test_a_client_that_keeps_past_and_present_apart_gets_the_same(family, build):
    """As optimum and transformers.js run it: past exactly as long as the tokens so far."""
    built = build(family)
    tokens = _tokens(2, 7 + STEPS, seed=1)
    expected = _logits(built.plain, tokens)
    session = _session(built.path)
    names = [output.name for output in session.get_outputs()]
    results = session.run(None, complete_feed(session, {"input_ids": tokens[:, :7]}))
    got = [results[0]]
    for step in range(7, 7 + STEPS):
        feed = {
            "input_ids": tokens[:, step : step + 1],
            "attention_mask": np.ones((2, step + 1), np.int64),
            "position_ids": np.full((2, 1), step),
        }
        for name, value in zip(names[1:], results[1:], strict=True):
            assert value.shape == (2, 2, step, 16)
            feed[name.replace("present", "past_key_values")] = value
        results = session.run(None, feed)
        got.append(results[0])
    assert np.abs(np.concatenate(got, axis=1) - expected).max() < 1e-4


@pytest.mark.parametrize("family", FUSED_DECODERS)
def test_rows_padded_on_the_left_equal_rows_alone(family, build):
    built = build(family)
    tokens, pads = _tokens(3, 12, seed=2), [0, 2, 5]
    mask = np.array([[0] * pad + [1] * (12 - pad) for pad in pads])
    batch = {"input_ids": np.where(mask == 1, tokens, 1), "attention_mask": mask}
    [outputs] = run_graph(Graph.load(built.path), [batch])
    for row, pad in enumerate(pads):
        alone = _logits(built.plain, tokens[row : row + 1, pad:])
        assert np.abs(outputs["logits"][row, pad:] - alone[0]).max() < 1e-4
        following = np.append(tokens[row, pad:], batch["input_ids"][row, 0])
        alone = _logits(built.plain, following[None])
        assert np.abs(outputs["next_logits"][row, 0] - alone[0, -1]).max() < 1e-4


@pytest.mark.parametrize("family", FUSED_DECODERS)
def test_tokens_fed_in_pieces_and_taken_back(family, build):
    built = build(family)
    tokens, other = _tokens(1, 14, seed=3), _tokens(1, 5, seed=4)
    decoding = Decoder(_session(built.path)).start()
    decoding.feed(tokens[:, :6])
    mark = decoding.mark()
    decoding.feed(other)
    decoding.rewind(mark)
    got = decoding.feed(tokens[:, 6:])
    assert np.abs(got - _logits(built.plain, tokens)[:, 6:]).max() < 1e-4


@pytest.mark.parametrize("family", FUSED_DECODERS)
def test_sequences_of_one_decoder_fed_in_turns_stay_apart(family, build, monkeypatch):
    built = build(family)
    monkeypatch.setattr(cache, "_ROOM", 2)
    sequences = [_tokens(1, 9 + count, seed=5 + count) for count in range(3)]
    decoder = Decoder(_session(built.path))
    begun = [decoder.start() for _ in sequences]
    got = [[each.feed(tokens[:, :4])] for each, tokens in zip(begun, sequences, strict=True)]
    for step in range(4, 11):
        for each, tokens, logits in zip(begun, sequences, got, strict=True):
            if step < tokens.shape[1]:
                logits.append(each.feed(tokens[:, step : step + 1]))
    for tokens, logits in zip(sequences, got, strict=True):
        expected = _logits(built.plain, tokens)
        assert np.abs(np.concatenate(logits, axis=1) - expected).max() < 1e-4


def test_last_logits_alone_where_they_are_asked_for(build):
    built = build("llama-fused")
    tokens = _tokens(1, 10)
    session = _session(built.path)
    decoder = Decoder(session)
    everything = decoder.start().feed(tokens)
    last = decoder.start().feed(tokens, last_only=True)
    assert everything.shape == (1, 10, VOCABULARY)
    assert last.shape == (1, 1, VOCABULARY)
    np.testing.assert_allclose(last, everything[:, -1:], rtol=0, atol=1e-5)
    # A client sees the inputs of the plain export, and no other.
    plain = [value.name for value in _session(built.plain).get_inputs()]
    assert [value.name for value in session.get_inputs()] == plain
    onnx.checker.check_model(str(built.path))
    # Tried by hand: 1.21 has no mask among the operator's inputs.
    assert oldest_onnxruntime(read_outline(built.path)) == "1.22.0"
    assert oldest_onnxruntime(read_outline(built.plain)) == "1.17.0"


def test_what_cannot_be_fused_is_laid_out_and_said(tmp_path):
    model = make_model("llama", tmp_path / "hf")
    path = export_onnx(model, tmp_path)
    batch = {name: value.numpy() for name, value in make_batch().items()}
    reports = rewrite(path, tmp_path / "out.onnx", model.anatomy, None, [batch], VNNI)
    by_name = {report.name: report for report in reports}
    assert not by_name["fuse attention"].kept
    assert "heads of 8" in by_name["fuse attention"].reason
    assert by_name["lay out attention"].kept
    before = run_graph(Graph.load(path), [batch])
    assert largest_drift(before, run_graph(Graph.load(tmp_path / "out.onnx"), [batch])) < 1e-4


def test_angles_that_depend_on_the_length_are_refused(build, tmp_path):
    """A rotary embedding that changes with the text's length has no table."""
    graph = Graph.load(build("llama-fused").plain)
    model = build("llama-fused").model
    node = next(n for n in graph.nodes if n.op_type == "Cos")
    shape = graph.add("Shape", ["attention_mask"], "/test/Shape")
    size = graph.add("Cast", [shape], "/test/Cast", to=onnx.TensorProto.FLOAT)
    total = graph.add("ReduceSum", [size], "/test/Sum", keepdims=0)
    node.input[0] = graph.add("Mul", [node.input[0], total], "/test/Mul")
    graph.index()
    with pytest.raises(ValueError, match="depends on attention_mask, position_ids"):
        fuse_attention(graph, model.anatomy)
