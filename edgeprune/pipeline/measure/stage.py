"""The measure stage: the bundle beside the original, on speed, memory, bytes and quality."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeprune.base.record import Record
from edgeprune.compress.context import Context
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.measure.record import Measured, MeasuredStage
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.measure.batching import embeddings_alone, predictions_alone
from edgeprune.pipeline.measure.cache import measure_cache
from edgeprune.pipeline.measure.curve import measure_curve
from edgeprune.pipeline.measure.neighbours import measure_neighbours
from edgeprune.pipeline.measure.question import Question, held_out_measures
from edgeprune.pipeline.measure.settings import MeasureSettings
from edgeprune.pipeline.measure.sparse import measure_sparse
from edgeprune.pipeline.measure.stages import measure_stages
from edgeprune.text.balance import shares
from edgeprune.text.corpus import Corpus
from edgeprune.text.languages import FIELD
from edgeprune.text.samplers import share_out
from edgeprune.text.text import Text
from edgeprune.text.truth import FORMS, Form

_HELD_OUT_TEXTS = 512
_HELD_OUT_WINDOWS = 16
_BRIEF_LAUNCHES = 4
BUILD_MEASURES: Mapping[str, Callable[[Path, Path, Path], Record]] = {
    "embeddings alone": embeddings_alone,
    "predictions alone": predictions_alone,
    "neighbours": measure_neighbours,
}
"""Measurements that rows of tasks name: functions of the bundle's folder, the original's and the
file of held-out text."""


def run(context: Context, source: Path, target: Path, settings: MeasureSettings) -> Measured:
    """Measure the folder that the rewrite stage left beside the original's export."""
    original = context.folders["original"]
    bench = BenchSettings(
        tokens=settings.tokens,
        batch=settings.batch,
        threads=settings.threads,
        time_limit=settings.seconds,
        launches=settings.launches,
    )
    held = write_held_out(context, target)
    questions = _questions(context, held)
    speed = compare(source, original, bench.model_copy(update={"profile": settings.profile}))
    quality = [question.ask(source, original) for question in questions]
    curve = measure_curve(source, original, bench, settings.curve)
    stages: list[MeasuredStage] = []
    if settings.stages:
        brief = bench.model_copy(
            update={
                "time_limit": settings.seconds / 4,
                "launches": min(_BRIEF_LAUNCHES, settings.launches),
            }
        )
        main = questions[-1 if settings.task else 0]
        stages = measure_stages(context, original, target, brief, main)
    more: dict[str, Any] = {
        key: BUILD_MEASURES[name](source, original, held)
        for key, name in TASKS[context.checkpoint.task].build_measures.items()
    }
    if quantize := context.settings.get("quantize"):
        plan = context.results["quantize"].to_json()["plan"]
        sparse = measure_sparse(source, plan, quantize, bench)
        more |= {"sparse": sparse} if sparse else {}
        if quantize.cache_bits:
            more["cache"] = measure_cache(source, target, bench)
    return Measured(
        speed=speed, quality=tuple(quality), curve=tuple(curve), stages=tuple(stages), **more
    )


def _questions(context: Context, held: Path) -> list[Question]:
    """The questions on the bundle's quality: on held-out text, then the user's own."""
    task, settings = context.checkpoint.task, context.settings["measure"]
    window = context.text.settings.max_tokens
    names = held_out_measures(task, "vocabulary" in context.settings)
    several = bool(context.text.languages)
    questions = [_of_held_out(name, held, window, several) for name in names]
    if settings.task:
        assert settings.data is not None
        questions.append(
            Question(
                settings.task,
                settings.data,
                settings.limit,
                fields=settings.fields,
                languages=several and Path(settings.data).is_file(),
            )
        )
    return questions


def _of_held_out(measure: str, held: Path, window: int, languages: bool) -> Question:
    called = "held-out text"
    if "window" in MEASURES[measure].options:
        return Question(
            measure, held, _HELD_OUT_WINDOWS, window, called=called, languages=languages
        )
    return Question(measure, held, called=called, languages=languages)


def write_held_out(context: Context, folder: Path) -> Path:
    """Write the text that no stage has trained on or chosen by, in the form that the measures read;
    of several languages, in rows that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    text = context.text
    reads, held = text.reads, text.measured
    if held.labels is not None:
        named = held.languages if text.languages else None
        return _write_labelled(held, named, folder / "held_out.jsonl", FORMS[reads])
    if text.languages:
        return _write_languages(text, folder / "held_out.jsonl")
    file = folder / "held_out.txt"
    if reads == "sentences":
        file.write_text("\n".join(held.sentences.texts[:_HELD_OUT_TEXTS]), encoding="utf-8")
    else:
        file.write_text("\n".join(held.texts), encoding="utf-8")
    return file


def _write_labelled(held: Corpus, named: list[str] | None, file: Path, form: Form) -> Path:
    assert held.labels is not None
    rows = [
        form.row(document, label)
        for document, label in zip(held.documents, held.labels, strict=True)
    ]
    if named:
        rows = [row | {FIELD: name} for row, name in zip(rows, named, strict=True)]
    return _write_rows(rows[:_HELD_OUT_TEXTS], file)


def _write_languages(text: Text, file: Path) -> Path:
    """Documents with their language; of sentences so many, shared out as in training."""
    parts = text.measured.by_language
    texts = {name: part.documents for name, part in parts.items()}
    if text.reads == "sentences":
        found = {name: part.sentences.texts for name, part in parts.items()}
        texts = {name: some for name, some in found.items() if some}
        sizes = {name: len(some) for name, some in texts.items()}
        even = shares(list(sizes.values()), text.settings.language_balance)
        counts = share_out(_HELD_OUT_TEXTS, sizes, dict(zip(sizes, even, strict=True)))
        texts = {name: some[: counts[name]] for name, some in texts.items()}
    return _write_rows(
        [{"text": each, FIELD: name} for name, some in texts.items() for each in some], file
    )


def _write_rows(rows: list[dict[str, Any]], file: Path) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file
