"""The measure stage: the bundle beside the original, on speed, memory, bytes and quality."""

import json
from pathlib import Path
from typing import Any

from edgeprune.bench.compare import compare
from edgeprune.bench.settings import BenchSettings
from edgeprune.build import Build
from edgeprune.evaluate.measures import MEASURES, evaluate
from edgeprune.measure.cache import measure_cache
from edgeprune.measure.settings import MeasureSettings, Requirements
from edgeprune.measure.sparse import measure_sparse
from edgeprune.text.corpus import Corpus, sentences

_HELD_OUT_TEXTS = 512
_HELD_OUT_WINDOWS = 16
# Per task: measures on held-out text.
_OWN = {
    "feature-extraction": ("cosine",),
    "text-classification": ("classification",),
    "text-generation": ("perplexity", "kl"),
}


def run(build: Build, source: Path, target: Path, settings: MeasureSettings) -> dict[str, Any]:
    """Measure the folder that the rewrite stage left beside the original's export."""
    original = build.folders["original"]
    bench = BenchSettings(
        tokens=settings.tokens,
        batch=settings.batch,
        threads=settings.threads,
        time_limit=settings.seconds,
    )
    speed = compare(source, original, bench)
    sparse = None
    if build.recipe.quantize:
        plan = build.results["quantize"]["plan"]
        sparse = measure_sparse(source, plan, build.recipe.quantize, bench)
    task = build.checkpoint.task
    cache = None
    if build.recipe.quantize and build.recipe.quantize.cache_bits:
        cache = measure_cache(source, target, bench)
    held = write_held_out(build, target)
    limit = _HELD_OUT_WINDOWS if task == "text-generation" else None
    quality = [
        evaluate(source, name, held, limit=limit, against=original, window=_window(build, name))
        | {"data": "held-out text"}
        for name in _OWN[task]
        if not (MEASURES[name].of_tokens and build.recipe.vocabulary)
    ]
    if settings.task:
        assert settings.data is not None
        quality.append(evaluate(source, settings.task, settings.data, settings.limit, original))
    more = {"sparse": sparse, "cache": cache}
    return {"speed": speed, "quality": quality} | {k: v for k, v in more.items() if v}


def _window(build: Build, measure: str) -> int | None:
    windowed = measure in ("perplexity", "kl")
    return build.recipe.text.max_tokens if windowed else None


def write_held_out(build: Build, folder: Path) -> Path:
    """Write the text that no stage has trained on, in the form that the measures read."""
    folder.mkdir(parents=True, exist_ok=True)
    _, held = build.corpus.split(build.recipe.text.held_out, build.seed)
    if build.checkpoint.task == "text-classification":
        return _write_labelled(held, folder / "held_out.jsonl")
    file = folder / "held_out.txt"
    if build.checkpoint.task == "feature-extraction":
        file.write_text("\n".join(sentences(held.documents)[:_HELD_OUT_TEXTS]), encoding="utf-8")
    else:
        file.write_text("\n".join(held.documents), encoding="utf-8")
    return file


def _write_labelled(held: Corpus, file: Path) -> Path:
    assert held.labels is not None
    rows = list(zip(held.documents, held.labels, strict=True))[:_HELD_OUT_TEXTS]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def missed(measured: dict[str, Any], require: Requirements) -> list[str]:
    """The requirements that a measurement did not reach, each as a sentence."""
    sentences_: list[str] = []
    speed = measured["speed"]
    work, times = next(iter(speed["measures"].items()))
    ratio = times["ratio"]["value"]
    if require.speedup is not None and ratio < require.speedup:
        sentences_.append(f"{work} is {ratio:.2f}x as fast; {require.speedup:g}x was required")
    size = speed["candidate"]["model_bytes"] / 1e6
    if require.megabytes is not None and size > require.megabytes:
        sentences_.append(f"the graph has {size:.1f} MB; {require.megabytes:g} were allowed")
    for quality in measured["quality"]:
        cosine = quality["values"].get("mean_cosine")
        if require.cosine is not None and cosine is not None and cosine < require.cosine:
            sentences_.append(f"the mean cosine is {cosine:.4f}; {require.cosine:g} was required")
    if require.drop is not None:
        sentences_ += _dropped(measured["quality"][-1], require.drop)
    return sentences_


def _dropped(quality: dict[str, Any], allowed: float) -> list[str]:
    key = next(iter(quality.get("difference", {})), None)
    if key is None:
        return []
    lost = -quality["difference"][key]
    if key == "perplexity":
        lost = -100 * lost / quality["original"][key]
    if lost <= allowed:
        return []
    return [f"{quality['task']} lost {lost:.2f} of {key}; {allowed:g} were allowed"]
