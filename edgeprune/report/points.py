"""Quality against speed: the original, the result, measured stages, and what else was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Literal

from edgeprune.measure.bench.record import Comparison, Speed
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.measure.works import Work
from edgeprune.report.others import Other
from edgeprune.report.records import BuildRecord, Known, Quality, ratio

Kind = Literal["original", "stage", "result", "other"]
STAGE_NAMES = {"export": "before rewriting"}


@dataclass(frozen=True)
class Point:
    """One model: how many times faster than the original, and its quality."""

    name: str
    kind: Kind
    speed: Known | None
    quality: Known | None
    megabytes: float | None = None
    why: str = ""
    """Why it cannot stand in the picture, where it cannot."""


def points(record: BuildRecord, others: Sequence[Other], work: Work) -> list[Point]:
    """Every model that this build measured at a kind of work, and the others."""
    main = Quality.of(record.main_quality)
    baseline = (record.speed.baseline.model_bytes or 0) / 1e6
    found = [Point("original", "original", Known.of(1.0), main.original, baseline)]
    for stage in record.measured.stages or ():
        name = f"{STAGE_NAMES.get(stage.name, 'after ' + stage.name)}, float32"
        measured = Other(name, [stage.speed], list(stage.quality))
        found.append(_point(record, measured, "stage", work))
    result = Other("result", [record.speed], [record.main_quality])
    found.append(_point(record, result, "result", work))
    return found + [_point(record, other, "other", work) for other in others]


def _point(record: BuildRecord, model: Other, kind: Kind, work: Work) -> Point:
    """A model's point; only what was measured under the build's own conditions is taken."""
    speeds = {_unlike_speed(record.speed, found, work): found for found in model.speeds}
    scores = {_unlike_quality(record.main_quality, found): found for found in model.qualities}
    alike = speeds.get("")
    known = alike.measures[work].ratio if alike else None
    speed = ratio(known) if known else None
    quality = Quality.of(scores[""]).beside if "" in scores else None
    reasons = []
    if speed is None:
        reasons.append(next(iter(speeds), "its speed was not measured"))
    if quality is None:
        reasons.append(next(iter(scores), "its quality was not measured"))
    sizes = [found.candidate.model_bytes for found in model.speeds]
    megabytes = sizes[0] / 1e6 if sizes and sizes[0] else None
    return Point(model.name, kind, speed, quality, megabytes, " and ".join(reasons))


def _unlike_quality(own: Evaluation, other: Evaluation) -> str:
    """Why two quality measures cannot be compared; nothing where they can."""
    wanted, found = Quality.of(own), Quality.of(other)
    if (found.measure, found.key) != (wanted.measure, wanted.key):
        return f"its quality was measured by {found.measure}, not {wanted.measure}"
    same = own.conditions == other.conditions
    if wanted.original and found.original:  # the original scores alike on the same rows
        same = same and isclose(wanted.original.value, found.original.value, rel_tol=1e-6)
    return "" if same else f"its {found.measure} was measured on other data"


def _unlike_speed(own: Comparison, other: Speed, work: Work) -> str:
    """Why two benchmarks' ratios cannot be compared; nothing where they can."""
    if other.baseline is None:
        return "it was timed alone, not beside the original"
    if work not in other.measures:
        return f"it was not timed at {work}"
    if other.baseline.model_bytes != own.baseline.model_bytes:
        return "it was timed beside another model than the original"
    for key in ("tokens", "batch", "threads"):
        if getattr(other.settings, key) != getattr(own.settings, key):
            return f"it was timed at {getattr(other.settings, key)} {key}"
    if other.machine.processor != own.machine.processor:
        return f"it was timed on {other.machine.processor}"
    return ""
