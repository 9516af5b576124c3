"""A build in words: what it reached, what each stage did, and what nobody measured."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.base.words import listed, many, number, size
from edgeprune.export.stages import MAKING
from edgeprune.measure.record import Measured, Mixed, Overlap
from edgeprune.measure.requirements import Judged, Requirements, judge
from edgeprune.measure.works import WORKS
from edgeprune.report.breakdown import breakdowns
from edgeprune.report.figures import WORK, Tone, cell, changed, faster, smaller
from edgeprune.report.points import Point
from edgeprune.report.records import BuildRecord, Quality, data_name, ratio
from edgeprune.report.schema import RECORDS


@dataclass(frozen=True)
class Tile:
    """A figure to be seen first: the number, what it is, and lines of what stands behind it."""

    figure: str
    what: str
    details: Sequence[str]
    word: str = ""
    """The word behind the figure: faster, slower, worse."""
    tone: Tone = ""


def tiles(record: BuildRecord) -> list[Tile]:
    """Speed, size and memory against the original, and the main quality."""
    speed = record.speed
    shown = []
    for work in record.works:
        times = speed.measures[work]
        found = faster(ratio(times.ratio))
        original, result = times.baseline.median_ms, times.candidate.median_ms
        what = WORKS[work].speed
        figure, word = re.split(", | ", found.text, maxsplit=1)
        details = [f"95 %: {found.interval}", f"{original:.2f} to {result:.2f} ms"]
        details += ["on a noisy machine"] if speed.noise and speed.noise.noisy else []
        shown.append(Tile(figure, what, details, word, found.tone))
    for key, what in (("model_bytes", "Size"), ("peak_memory_bytes", "Peak memory")):
        original, result = getattr(speed.baseline, key), getattr(speed.candidate, key)
        change = smaller(original, result)
        shown.append(
            Tile(size(result), what, [f"from {size(original)}", change.text], tone=change.tone)
        )
    quality = Quality.of(record.main_quality)
    main, details = cell(quality.value), ["to the original"]
    if quality.difference and quality.original:
        main = changed(quality.key, quality.difference)
        details = [f"{number(quality.original.value)} to {number(quality.value.value)}"]
    elif quality.original:
        details = [f"the original's is {number(quality.original.value)}"]
    if main.interval:
        details.insert(0, f"95 %: {main.interval}")
    figure, _, word = main.text.partition(", ")
    return [*shown, Tile(figure, quality.words.capitalize(), details, word, main.tone)]


def requirements(record: BuildRecord) -> list[Judged]:
    """The recipe's requirements, met or missed."""
    asked = Requirements.model_validate(record.recipe.get("require") or {})
    return judge(record.measured, asked)


def verdict(judged: Sequence[Judged]) -> str:
    """Whether a build is what was required, in a sentence; nothing where nothing was required."""
    if not judged:
        return ""
    missed = [each for each in judged if not each.met]
    if not missed:
        return f"Every requirement is met: {listed([each.of for each in judged])}."
    return (
        f"{many(len(missed), 'requirement')} of {len(judged)} missed: "
        f"{'; '.join(each.sentence for each in missed)}."
    )


def meaning(record: BuildRecord) -> list[str]:
    """The meaning of a mean cosine to the original's embeddings, and what it leaves open;
    sentences."""
    found = {quality.task: quality for quality in record.quality}
    if "cosine" not in found:
        return []
    cosine = found["cosine"]
    count = cosine.conditions.get("texts")
    of = f"{count:,} texts of {data_name(cosine.data)}" if count else data_name(cosine.data)
    lines = [
        f"Mean cosine: between the two models' embeddings of one text, over {of}; 1 is the same "
        "direction. Of the order of neighbours, which a search returns, it says nothing by itself."
    ]
    held = record.measured.neighbours
    near = held.values if held else None
    on = held.data if held else ""
    if retrieval := found.get("retrieval"):
        near, on = Overlap.model_validate(retrieval.values), retrieval.data
    if near:
        lines.append(
            f"It was measured on {data_name(on)}: of a text's ten nearest by the original, "
            f"{near.overlap_at_10 / 10:.1f} at the mean are among the result's ten nearest; of "
            f"{near.recall_at_10:.1f} % of the texts, the very nearest is among them."
        )
        if held and held.mixed:
            lines.append(_mixing(held.mixed))
    else:
        lines.append(
            "It was not measured here: `edgeprune evaluate --task retrieval` does, on your texts."
        )
    return lines


def _mixing(mixed: Mixed) -> str:
    """Whether an index may hold vectors of both models."""
    least = min(mixed.new_queries_overlap_at_10, mixed.half_new_overlap_at_10)
    lost = mixed.new_overlap_at_10 - least
    verdict = (
        "may hold vectors of both models"
        if lost <= _AS_GOOD
        else "should be made anew by the result, not hold vectors of both"
    )
    return (
        f"An index {verdict}: of the ten nearest, {mixed.new_queries_overlap_at_10 / 10:.1f} are "
        "found where the result asks an index of the original's, "
        f"{mixed.new_documents_overlap_at_10 / 10:.1f} the other way round, "
        f"{mixed.half_new_overlap_at_10 / 10:.1f} in an index of half and half, and "
        f"{mixed.new_overlap_at_10 / 10:.1f} in one that is all the result's."
    )


_AS_GOOD = 2.0
"""Points that mixing may cost to be called harmless."""


def told_parts(record: BuildRecord) -> list[str]:
    """The classes and languages that lost most and are worst, in sentences."""
    parts = [part for quality in record.quality for part in breakdowns(quality)]
    return [line for part in parts for line in part.told()]


# What each stage did, in a sentence ---------------------------------------------------------------


def told(record: BuildRecord) -> list[dict[str, Any]]:
    """Every stage in order with its "name", what it "did", "seconds" and peak "megabytes"."""
    return [
        {
            "name": stage["name"],
            "did": "; ".join(_sentences(stage)),
            "seconds": stage.get("seconds"),
            "megabytes": stage.get("peak_megabytes"),
        }
        for stage in record.content["stages"]
    ]


def _sentences(did: Mapping[str, Any]) -> list[str]:
    """One stage's record in sentences; none of a stage that is not known here."""
    name = did["name"]
    return _TOLD[name](RECORDS[name].model_validate(did)) if name in _TOLD else []


def _measured(did: Measured) -> list[str]:
    quality = [found.task for found in did.quality]
    quality += ["neighbours"] if did.neighbours else []
    return [listed([*(WORK[work] for work in did.speed.measures), "memory", "bytes", *quality])]


_TOLD: dict[str, Callable[[Any], list[str]]] = {
    **{stage.name: stage.told for stage in MAKING},
    "measure": _measured,
}


# What was not measured ----------------------------------------------------------------------------


def not_measured(record: BuildRecord, others: Sequence[Point] = ()) -> list[str]:
    """The things that a reader might take for measured and were not, each as a sentence."""
    speed, measured = record.speed, record.measured
    settings, machine = speed.settings, speed.machine
    lines = [
        f"Any other processor than this {machine.processor}: speed, memory and, in the last "
        "digits, what integers answer are this machine's.",
        f"Other batches than {settings.batch}, and more threads than {settings.threads}.",
        "Energy, heat, and a clock that falls under long load.",
    ]
    briefly = {point.settings.tokens for point in measured.curve or ()}
    lengths = sorted({*briefly, settings.tokens})
    if len(lengths) == 1:
        lines.append(f"Other lengths than {lengths[0]} tokens.")
    else:
        lines.append(
            f"Lengths between and beyond {listed(list(map(str, lengths)))} tokens; all but "
            f"{settings.tokens} were timed briefly."
        )
    if not record.recipe.get("measure", {}).get("task"):
        lines.append(
            "The model's own task: quality is closeness to the original on held-out text. Set "
            "measure.task and measure.data to measure it."
        )
    lines.append("Text unlike the calibration text: another language, field or style.")
    if not others:
        lines.append("Other tools and formats: no peer's result was given to this report.")
    lines += [f"{point.name}: {point.why}." for point in others if point.why]
    if not measured.stages:
        lines.append("The stages between original and result, each on its own.")
    if measured.sparse and measured.sparse.instruction_set is None:
        lines.append("Sparse linears by their own operators, which were not installed here.")
    seed = record.recipe.get("seed")
    lines.append(f"Other seeds than {seed}: another may change quality a little.")
    return lines
