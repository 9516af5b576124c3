"""What the measure stage says of a quantized cache; the timing itself is bench's."""

import json

import numpy as np
import pytest
from speeds import make_speed
from tiny_models import make_batch, make_model

from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.verify import run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.measure.bench.record import Ratio, Side
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.record import Cache
from edgeprune.pipeline.measure import cache
from edgeprune.pipeline.measure.cache import measure_cache
from edgeprune.targets import find

BATCH = {name: value.numpy() for name, value in make_batch(tokens=24).items()}


@pytest.mark.parametrize("bits", [8, None])
def test_the_same_graph_with_a_float_cache_stands_beside_it(bits, tmp_path, monkeypatch):
    model = make_model("llama-fused", tmp_path / "hf")
    source, scratch = tmp_path / "rewrite", tmp_path / "measure"
    plain = export_onnx(model, tmp_path)
    path = source / "onnx" / "model.onnx"
    rewrite(plain, path, model.anatomy, None, [BATCH], find("x86-avx2"), bits)
    (source / "config.json").write_text(json.dumps(model.config))
    seen = []

    def compare(candidate, baseline, settings):
        graphs = [Graph.load(folder / "onnx" / "model.onnx") for folder in (candidate, baseline)]
        types = [run_graph(graph, [BATCH])[0]["present.0.key"].dtype for graph in graphs]
        seen.append((settings.tokens, types, (baseline / "config.json").exists()))
        speed = make_speed("text-generation")
        ratios = {
            "prompt": Ratio(value=0.8, low=0.7, high=0.9),
            "decode": Ratio(value=1.2, low=1.1, high=1.3),
        }
        measures = {
            work: found.model_copy(update={"ratio": ratios[work]})
            for work, found in speed.measures.items()
        }
        sides = [Side(name="", peak_memory_bytes=peak) for peak in (3, 5)]
        return speed.model_copy(
            update={"measures": measures, "candidate": sides[0], "baseline": sides[1]}
        )

    monkeypatch.setattr(cache, "compare", compare)
    found = measure_cache(source, scratch, BenchSettings(decode_steps=16), (32, 64, 128))
    if bits is None:
        assert found is None
        return
    assert seen == [(tokens, [np.int8, np.float32], True) for tokens in (32, 64)]  # 96 at most
    assert not list(scratch.iterdir())
    assert found.float_bytes_per_token == 4 * found.bytes_per_token == 4 * 2 * 2 * 2 * 16
    assert (found.decode_pays_from, found.prompt_pays_from) == (32, None)
    assert found.contexts["64"].float_peak_memory_bytes == 5
    assert Cache.model_validate(json.loads(json.dumps(found.to_json()))) == found
