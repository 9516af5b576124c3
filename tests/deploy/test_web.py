"""The page of deploy/web, in a browser without a window, answers as the runtime does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from other_python import NODE, needs_browser

from edgeprune import runtime
from edgeprune.runtime.bundle import MANIFEST

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXTS = ["the quick brown fox", "a lazy dog", "one more text"]
FAMILIES = {
    "feature-extraction": "distilbert",
    "text-classification": "distilbert",
    "text-generation": "llama",
}
GRAPHS = {"text-generation": ("float32", "model.onnx")}


@pytest.fixture
def built(monkeypatch, tmp_path) -> Callable[[str], Path]:
    """A toy of a task, built with a graph for browsers: the build's output."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from toys import bundles
    from toys.models import make_model
    from toys.ways import ways

    def make(task: str) -> Path:
        [way, *_] = ways(FAMILIES[task], task)
        model = make_model(FAMILIES[task], way.head, way.saved, tmp_path / "model")
        more = "quantize: {activations: token}\nvariants: [quantized, float32]"
        return bundles.built(model, way, tmp_path / "out", more, True).folder.parent

    return make


def opened(output: Path, *presses: dict[str, str], query: str = "") -> tuple[dict, dict]:
    from web_page import look

    return look(output, Path(str(NODE)) / "node_modules", presses, query)


@needs_browser
@pytest.mark.parametrize("task", FAMILIES)
def test_the_page_answers_as_the_runtime(task, built):
    output = built(task)
    typed = {"text": "\n".join(TEXTS) if task == "feature-extraction" else TEXTS[0]}
    # Rounding in another order may change a token of a random decoder, and so all after it.
    name, file = GRAPHS.get(task, ("quantized", "model_quantized.onnx"))
    query = f"?variant={name}" if task in GRAPHS else ""
    seen, sent = opened(output, {**typed, "press": "run"}, {"press": "compare"}, query=query)
    assert seen["faults"] == []
    assert [step["fault"] for step in seen["steps"]] == [None] * 3
    *_, answered, compared = seen["steps"]
    assert answered["about"].startswith(f"{task}: {name}, ")
    model = runtime.load(output / "bundle", variant=name)
    if task == "feature-extraction":
        vectors = model.embed(TEXTS, batch_size=1)
        first, *others = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        names, values = TEXTS[1:], [float(first @ other) for other in others]
    elif task == "text-classification":
        [found] = model.classify([TEXTS[0]])
        ranked = sorted(found.probabilities.items(), key=lambda each: -each[1])[:5]
        names, values = [label for label, _ in ranked], [score for _, score in ranked]
    else:
        from edgeprune.runtime.sampling import Sampling

        text = "".join(model.complete(TEXTS[0], Sampling(max_tokens=32)))
        assert answered["answer"].endswith(text)
        names, values = [], []
    assert [name for name, _ in answered["rows"]] == names
    np.testing.assert_allclose([value for _, value in answered["rows"]], values, atol=6e-4)
    for step, said in ((answered, " ms a call here."), (compared, " times as fast.")):
        assert step["time"].endswith(said)
        assert float(step["time"].split()[0]) > 0
    # The original comes last, and only once somebody asks for its time; one graph is fetched.
    graphs = [path for path in sent if path.endswith(".onnx")]
    assert graphs == [f"bundle/onnx/{file}", "original/onnx/model.onnx"]
    size = (output / graphs[0]).stat().st_size
    assert size < sent[graphs[0]] < size + 1000


@needs_browser
def test_what_the_page_cannot_do_is_told(built, tmp_path):
    output = built("text-classification")
    seen, _ = opened(output, query="?variant=x86-avx2")
    assert seen["steps"][0]["fault"] == "The bundle has no variant x86-avx2."
    empty = tmp_path / "empty"
    (empty / "bundle").mkdir(parents=True)
    seen, _ = opened(empty)
    assert "There is no bundle/edgeprune.json beside this page" in seen["steps"][0]["fault"]
    shutil.copy(output / "bundle" / MANIFEST, empty / "bundle")
    manifest = json.loads((empty / "bundle" / MANIFEST).read_text())
    (empty / "bundle" / MANIFEST).write_text(json.dumps({**manifest, "task": "fill-mask"}))
    seen, _ = opened(empty)
    assert seen["steps"][0]["fault"].endswith("and the bundle does fill-mask.")
