"""The operator library's attention with a cache in float16: its bits, and a stock runtime's."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from lowered_graphs import BATCH, FEED, VNNI, emission
from sparse_models import library_for_tests
from tiny_models import make_model

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.half_cache import halve_cache, whole_cache
from edgeprune.export.rewrite.quantized_cache import cache_bytes
from edgeprune.export.rewrite.run import rewrite
from edgeprune.kernels import library
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.names import PAST
from edgeprune.runtime.session import open_session

torch.set_num_threads(1)
IDS = np.random.default_rng(0).integers(3, 120, 13)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A decoder in operators, halved.onnx, and float.onnx with its cache in float32."""
    folder = tmp_path_factory.mktemp("halved")
    built = library_for_tests(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "LIBRARY", built)
        model = make_model("llama-fused", folder / "hf")
        quantized = quantize_model(model, [BATCH], QuantizeSettings(operators=True), VNNI)
        source, path = emission(model, folder / "stage"), folder / "halved.onnx"
        reports = rewrite(source, path, model.anatomy, quantized, [FEED], VNNI, cache_bits=16)
    assert all(report.kept for report in reports)
    assert reports[-1].changed == len(model.anatomy.blocks)
    graph = Graph.load(path)
    assert whole_cache(graph) == len(model.anatomy.blocks)
    graph.save(folder / "float.onnx")
    return folder


@pytest.fixture
def installed(place, monkeypatch):
    monkeypatch.setattr(library, "LIBRARY", library_for_tests(place))


def stock(file: Path) -> Decoder:
    return Decoder(ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]))


def stepped(decoder: Decoder, cuts: list[int]) -> np.ndarray:
    """Logits of IDS, so many tokens at a time."""
    decoding, parts, first = decoder.start(), [], 0
    for count in cuts:
        parts.append(decoding.feed(IDS[first : first + count])[0])
        first += count
    return np.concatenate(parts)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_it_takes_half_of_the_bytes_and_comes_back_whole(place):
    halved, whole = (Graph.load(place / name) for name in ("halved.onnx", "float.onnx"))
    assert 2 * cache_bytes(halved) == cache_bytes(whole)
    assert halve_cache(whole) == 2
    for made in (whole, halved):
        made.sort()
    assert [*whole.input_shapes(PAST)] == [*halved.input_shapes(PAST)]
    assert [str(node) for node in whole.nodes] == [str(node) for node in halved.nodes]


def test_logits_have_the_same_bits_however_tokens_come(place, installed):
    decoder = Decoder(open_session(place / "halved.onnx", threads=1))
    assert {decoder.types[name] for name in decoder.past} == {np.float16}
    whole = stepped(decoder, [13])
    for cuts in ([1] * 13, [4, 9], [12, 1]):
        np.testing.assert_array_equal(stepped(decoder, cuts), whole)
    assert decoder.drafts


@pytest.mark.parametrize("cuts", [[13], [1] * 13, [4, 9]])
def test_a_stock_runtime_gives_what_rounded_keys_and_values_give(cuts, place, installed):
    halved = Decoder(open_session(place / "halved.onnx", threads=1))
    # A key or value of float16 has 11 bits; a code of an activation that it moves has 7.
    assert apart(stepped(stock(place / "halved.onnx"), cuts), stepped(halved, cuts)) < 0.02
    whole = Decoder(open_session(place / "float.onnx", threads=1))
    assert 0 < apart(stepped(halved, cuts), stepped(whole, cuts)) < 0.02


def test_a_cache_of_the_runtimes_attention_is_refused(tmp_path):
    model = make_model("llama-fused", tmp_path / "hf")
    with pytest.raises(ValueError, match="the operator library's"):
        halve_cache(emission(model, tmp_path / "stage").graph)
