"""The measure stage: the bundle beside the original, on speed, memory, bytes and quality."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.bench.compare import compare
from edgeprune.bench.settings import BenchSettings
from edgeprune.build import Build
from edgeprune.evaluate.data import Data
from edgeprune.evaluate.measures import MEASURES, evaluate
from edgeprune.measure.batching import measure_batching
from edgeprune.measure.cache import measure_cache
from edgeprune.measure.curve import measure_curve
from edgeprune.measure.settings import MeasureSettings, Requirements
from edgeprune.measure.sparse import measure_sparse
from edgeprune.measure.stages import measure_stages
from edgeprune.recipe import Recipe
from edgeprune.text.corpus import Corpus, sentences

_HELD_OUT_TEXTS = 512
_HELD_OUT_WINDOWS = 16
# Per task: measures on held-out text.
_OWN = {
    "feature-extraction": ("cosine",),
    "text-classification": ("classification",),
    "text-generation": ("perplexity", "kl"),
}


@dataclass(frozen=True)
class Question:
    """A quality measure, what it reads, and what records call that."""

    measure: str
    data: str | Path
    limit: int | None = None
    window: int | None = None
    called: str | None = None

    def ask(self, place: Path, original: Path) -> dict[str, Any]:
        """What `evaluate` finds."""
        found = evaluate(place, self.measure, self.data, self.limit, original, self.window)
        return found | ({"data": self.called} if self.called else {})


def run(build: Build, source: Path, target: Path, settings: MeasureSettings) -> dict[str, Any]:
    """Measure the folder that the rewrite stage left beside the original's export."""
    original = build.folders["original"]
    bench = BenchSettings(
        tokens=settings.tokens,
        batch=settings.batch,
        threads=settings.threads,
        time_limit=settings.seconds,
    )
    held = write_held_out(build, target)
    questions = _questions(build, held)
    measured: dict[str, Any] = {
        "speed": compare(source, original, bench.model_copy(update={"profile": settings.profile})),
        "quality": [question.ask(source, original) for question in questions],
        "curve": measure_curve(source, original, bench, settings.curve),
        "stages": [],
    }
    if settings.stages:
        brief = bench.model_copy(update={"time_limit": settings.seconds / 4})
        main = questions[-1 if settings.task else 0]
        measured["stages"] = measure_stages(build, original, target, brief, main)
    if build.checkpoint.task != "text-generation":
        texts = [row["text"] for row in Data(held).texts()]
        measured["batching"] = measure_batching(source, build.checkpoint.task, texts)
    if build.recipe.quantize:
        plan = build.results["quantize"]["plan"]
        sparse = measure_sparse(source, plan, build.recipe.quantize, bench)
        measured |= {"sparse": sparse} if sparse else {}
        if build.recipe.quantize.cache_bits:
            measured["cache"] = measure_cache(source, target, bench)
    return measured


def _questions(build: Build, held: Path) -> list[Question]:
    """What is asked of the bundle's quality: on held-out text, then the user's own."""
    task, settings = build.checkpoint.task, build.recipe.measure
    decoder = task == "text-generation"
    questions = [
        Question(
            measure,
            held,
            limit=_HELD_OUT_WINDOWS if decoder else None,
            window=build.recipe.text.max_tokens if decoder else None,
            called="held-out text",
        )
        for measure in held_out_measures(task, build.recipe)
    ]
    if settings.task:
        assert settings.data is not None
        questions.append(Question(settings.task, settings.data, settings.limit))
    return questions


def held_out_measures(task: str, recipe: Recipe) -> list[str]:
    """The quality measures that a build of a task asks on held-out text, by name."""
    return [name for name in _OWN[task] if not (MEASURES[name].of_tokens and recipe.vocabulary)]


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
        shown = _apart(ratio, require.speedup, 2)
        sentences_.append(f"{work} is {shown}x as fast; {require.speedup:.15g}x was required")
    size = speed["candidate"]["model_bytes"] / 1e6
    if require.megabytes is not None and size > require.megabytes:
        shown = _apart(size, require.megabytes, 1)
        sentences_.append(f"the graph has {shown} MB; {require.megabytes:.15g} were allowed")
    for quality in measured["quality"]:
        cosine = quality["values"].get("mean_cosine")
        if require.cosine is not None and cosine is not None and cosine < require.cosine:
            shown = _apart(cosine, require.cosine, 4)
            sentences_.append(f"the mean cosine is {shown}; {require.cosine:.15g} was required")
    if require.drop is not None:
        # The last that the original has a value of, too: the user's own where there is one.
        judged = [quality for quality in measured["quality"] if quality.get("difference")]
        sentences_ += _dropped(judged[-1], require.drop)
    return sentences_


def _dropped(quality: dict[str, Any], allowed: float) -> list[str]:
    key = next(iter(quality["difference"]))
    lost = -quality["difference"][key]
    if key == "perplexity":
        lost = -100 * lost / quality["original"][key]
    if lost <= allowed:
        return []
    shown = _apart(lost, allowed, 2)
    return [f"{quality['task']} lost {shown} of {key}; {allowed:.15g} were allowed"]


def _apart(value: float, limit: float, digits: int) -> str:
    """A number with `digits` decimals, or as many more as tell it from a limit that it missed."""
    shown = (f"{value:.{count}f}" for count in range(digits, 16))
    return next((text for text in shown if float(text) != limit), repr(value))
