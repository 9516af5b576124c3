"""The cache in integers beside the float cache, and the choice of layers that get fewer bits."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny_models
import torch
import transformers
from few import few
from tiny_models import FUSED_DECODERS, VOCABULARY, make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.export.graph import Graph, attribute
from edgeprune.export.rewrite import quantized_cache
from edgeprune.export.rewrite.quantized_cache import (
    cache_bytes,
    float_cache,
    largest_values,
    layer_costs,
    quantize_cache,
)
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.verify import complete_feed, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.measure.bench.record import Ratio
from edgeprune.pipeline.measure.cache import pays_from
from edgeprune.runtime import cache
from edgeprune.runtime.bundle import oldest_onnxruntime
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.names import FUSED_ATTENTION
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets import find

torch.set_num_threads(1)
BATCH = {name: value.numpy() for name, value in make_batch(rows=8, tokens=64).items()}
HEADS, SIZE, LAYERS = 2, 16, 2


@pytest.fixture(scope="module")
def fused(tmp_path_factory) -> dict[str, Path]:
    """Each family's graph with fused attention, a float cache, and room for 256 steps."""
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models._FUSED, "max_position_embeddings", 300)
        for family in FUSED_DECODERS:
            folder = tmp_path_factory.mktemp(family)
            model = make_model(family, folder / "hf", unequal=False)
            done[family] = folder / "fused.onnx"
            plain = export_onnx(model, folder)
            rewrite(plain, done[family], model.anatomy, None, [BATCH], find("x86-avx2"))
    return done


def quantized(path: Path, bits: float) -> Path:
    graph = Graph.load(path)
    assert quantize_cache(graph, [BATCH], bits) == LAYERS
    [file] = graph.save(path.with_name(f"cache-{bits:g}.onnx"))
    return file


def decoder(path: Path) -> Decoder:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return Decoder(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


def decode(path: Path, tokens: np.ndarray, prompt: int) -> np.ndarray:
    """Logits of every step after the prompt."""
    model = decoder(path).start(len(tokens))
    model.feed(tokens[:, :prompt])
    steps = range(prompt, tokens.shape[1])
    return np.concatenate([model.feed(tokens[:, i : i + 1]) for i in steps], axis=1)


def random_tokens(rows: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, count))


def rounded(values: np.ndarray, scale: np.ndarray, largest: int) -> np.ndarray:
    return np.clip(np.rint(values / scale), -largest - 1, largest) * scale


class RoundingCache(transformers.DynamicCache):
    """transformers' cache, that hands out what integers would have kept."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def update(self, keys, values, layer, **others):
        parts = super().update(keys, values, layer, **others)
        kept = []
        for part, tensor in zip(("key", "value"), parts, strict=True):
            name = f"past_key_values.{layer}.{part}"
            scale = torch.from_numpy(self.graph.constant(f"{name}.scale").copy())
            [(_, kind, _)] = self.graph.input_shapes(name)
            largest = 127 if kind == onnx.TensorProto.INT8 else 7
            kept.append((tensor / scale).round().clamp(-largest - 1, largest) * scale)
        return tuple(kept)


@torch.no_grad()
def rounded_logits(folder: Path, graph: Graph, tokens: np.ndarray) -> np.ndarray:
    """What transformers says with such a cache, all tokens at once."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    cache = RoundingCache(graph)
    return model(torch.from_numpy(tokens), cache=cache, use_cache=True).logits.numpy()


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """||a - b|| / ||b|| of every token [tokens]."""
    return (np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1))[0]


@pytest.mark.parametrize("family", few(FUSED_DECODERS, FUSED_DECODERS[:1]))
def test_256_steps_beside_the_float_cache(family, fused, monkeypatch):
    """Each step is what rounding alone makes of it, and errors do not pile up."""
    monkeypatch.setattr(cache, "_ROOM", 64)  # so that the buffers grow on the way
    tokens = random_tokens(1, 8 + 256)
    exact = decode(fused[family], tokens, 8)
    drifts = {}
    for bits in (8, 4):
        path = quantized(fused[family], bits)
        got = decode(path, tokens, 8)
        oracle = rounded_logits(path.parent / "hf", Graph.load(path), tokens)[:, 8:]
        # A value between two codes may fall to either, by the last bit of its float.
        assert np.median(apart(got, oracle)) < 2e-3
        assert np.median(apart(got, oracle)[-64:]) < 2e-3
        drifts[bits] = apart(got, exact).mean()
    assert 0 < 4 * drifts[8] < drifts[4]


def test_what_is_stored_is_the_float_cache_rounded(fused):
    """The operator's own codes, against arithmetic."""
    path = fused["llama-fused"]
    graph = Graph.load(path)
    scales = {k: v / 127 for k, v in largest_values(graph, [BATCH]).items()}
    [plain] = run_graph(Graph.load(path), [BATCH])
    [found] = run_graph(Graph.load(quantized(path, 8)), [BATCH])
    for part in ("key", "value"):
        name = f"present.0.{part}"  # the first layer's is not yet touched by any rounding
        scale = scales[f"past_key_values.0.{part}"]
        assert found[name].dtype == np.int8
        np.testing.assert_allclose(
            found[name] * scale, rounded(plain[name], scale, 127), rtol=0, atol=1.01 * scale.max()
        )
        apart = np.abs(found[name] - np.rint(plain[name] / scale))
        assert (apart > 0).mean() < 0.01  # ties alone
        assert np.abs(found[name]).max() == 127


def test_the_scales_are_the_largest_values_of_each_channel(fused):
    graph = Graph.load(fused["qwen2-fused"])
    largest = largest_values(graph, [BATCH])
    [outputs] = run_graph(graph, [BATCH])
    assert len(largest) == 2 * LAYERS
    for name, seen in largest.items():
        values = outputs[name.replace("past_key_values", "present")]
        assert seen.shape == (1, HEADS, 1, SIZE)
        for head in range(HEADS):
            for channel in range(SIZE):
                assert seen[0, head, 0, channel] == np.abs(values[:, head, :, channel]).max()


def test_a_step_equals_a_prompt_of_the_same_tokens(fused):
    path = quantized(fused["qwen3-fused"], 8)
    tokens = random_tokens(1, 30, seed=3)
    at_once = decoder(path).start().feed(tokens)
    steps = decode(path, tokens, 20)
    assert np.abs(steps - at_once[:, 20:]).max() < 0.02 * np.abs(at_once).max()


def test_rows_side_by_side_and_padded_equal_rows_alone(fused):
    path = quantized(fused["llama-fused"], 8)
    tokens = random_tokens(3, 40, seed=4)
    together = decode(path, tokens, 10)
    for row in range(3):
        alone = decode(path, tokens[row : row + 1], 10)
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=0.02)
    pads = [0, 2, 5]
    mask = np.array([[0] * pad + [1] * (12 - pad) for pad in pads])
    batch = {"input_ids": np.where(mask == 1, tokens[:, :12], 1), "attention_mask": mask}
    [outputs] = run_graph(Graph.load(path), [batch])
    for row, pad in enumerate(pads):
        alone = decoder(path).start().feed(tokens[row : row + 1, pad:12])
        scale = np.abs(alone).max()
        assert np.abs(outputs["logits"][row, pad:] - alone[0]).max() < 0.05 * scale


def test_bytes_and_types_and_the_way_back(fused):
    path = fused["mistral-fused"]
    graph = Graph.load(path)
    before = run_graph(graph, [BATCH])[0]
    whole = 4 * 2 * LAYERS * HEADS * SIZE
    assert cache_bytes(graph) == whole
    for bits, share in ((8, 4), (4, 8), (6, 16 / 3)):
        quantize_cache(graph, [BATCH], bits)
        assert cache_bytes(graph) == whole / share
        onnx.checker.check_model(graph.model())
        assert float_cache(graph) == LAYERS
        assert cache_bytes(graph) == whole
        after = run_graph(graph, [BATCH])[0]
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)
    assert float_cache(graph) == 0


def test_only_a_newer_runtime_runs_it(fused):
    path = fused["llama-fused"]
    assert oldest_onnxruntime(read_outline(path)) == "1.22.0"
    assert oldest_onnxruntime(read_outline(quantized(path, 8))) == "1.28.0"


@pytest.mark.parametrize(("bits", "few"), [(8, 0), (7.9, 1), (6, 1), (5.9, 2), (4, 2)])
def test_the_layers_that_lose_least_get_four_bits(bits, few, fused, monkeypatch):
    """Never above the average that was asked, by the measured costs."""
    monkeypatch.setattr(quantized_cache, "layer_costs", lambda *_: [0.2, 0.1])
    graph = Graph.load(fused["llama-fused"])
    quantize_cache(graph, [BATCH], bits)
    nodes = sorted((n for n in graph.nodes if n.op_type == FUSED_ATTENTION), key=lambda n: n.name)
    widths = [attribute(node, "kv_cache_bit_width") for node in nodes]
    assert widths == {0: [8, 8], 1: [8, 4], 2: [4, 4]}[few]
    assert np.mean(widths) <= bits


def test_a_layers_cost_is_what_its_own_rounding_does(fused):
    """Against the divergence computed here from whole logits."""
    path = fused["llama-fused"]
    graph = Graph.load(path)
    costs = layer_costs(graph, [BATCH], largest_values(graph, [BATCH]))
    assert len(costs) == LAYERS
    assert min(costs) > 0
    [eight] = run_graph(Graph.load(quantized(path, 8)), [BATCH])
    [mixed] = run_graph(Graph.load(quantized(path, 6)), [BATCH])
    p, q = (
        torch.from_numpy(each["logits"][BATCH["attention_mask"] == 1]) for each in (eight, mixed)
    )
    expected = torch.nn.functional.kl_div(
        q.double().log_softmax(-1),
        p.double().log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    assert min(costs) == pytest.approx(float(expected), rel=1e-4)


def test_the_pass_is_last(tmp_path):
    model = make_model("llama-fused", tmp_path / "hf", unequal=False)
    out = tmp_path / "llama.onnx"
    path = export_onnx(model, tmp_path)
    reports = rewrite(path, out, model.anatomy, None, [BATCH], find("x86-avx2"), 8)
    assert (reports[-1].name, reports[-1].kept) == ("quantize cache", True)
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    feed = complete_feed(session, BATCH)
    assert {v.dtype for name, v in feed.items() if name.startswith("past")} == {np.dtype(np.int8)}


def test_a_cache_that_cannot_be_in_integers_is_told(tmp_path, monkeypatch):
    """By the build, which was asked for it, and not left out of it."""
    model = make_model("gpt2", tmp_path / "hf", unequal=False)
    target = find("x86-avx2")
    given = (tmp_path / "a.onnx", model.anatomy, None, [BATCH], target, 8.0)
    with pytest.raises(UserError, match="cannot be lowered: the attention is not fused"):
        rewrite(export_onnx(model, tmp_path), *given)
    monkeypatch.setattr("edgeprune.export.rewrite.run.mean_drift", lambda *_: 0.7)
    model = make_model(FUSED_DECODERS[0], tmp_path / "other", unequal=False)
    given = (tmp_path / "b.onnx", model.anatomy, None, [BATCH], target, 8.0)
    with pytest.raises(UserError, match=r"outputs by 0.7 of their size.*ask for more bits"):
        rewrite(export_onnx(model, tmp_path / "other"), *given)


def test_from_what_context_it_pays():
    def at(low: float) -> Ratio:
        return Ratio(value=low + 0.1, low=low, high=low + 0.2)

    assert pays_from({256: at(0.9), 1024: at(1.1), 4096: at(1.3)}) == 1024
    assert pays_from({256: at(1.2), 1024: at(0.99), 4096: at(1.3)}) == 4096
    assert pays_from({256: at(1.2), 1024: at(1.2), 4096: at(1.0)}) is None
    assert pays_from({}) is None
