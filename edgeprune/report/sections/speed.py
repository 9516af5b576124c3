"""Speed and quality: the comparison, both against each other, latency, and time by operator."""

from collections.abc import Mapping, Sequence

from edgeprune.measure.bench.record import (
    Missing,
    Point,
    Profile,
    SideName,
    known_profiles,
)
from edgeprune.measure.works import Work
from edgeprune.report.canvas import SIDES
from edgeprune.report.figures import WORK, Cell, cell, comparison, conditions, times
from edgeprune.report.others import Other
from edgeprune.report.pictures.latency import latency as latency_lines
from edgeprune.report.pictures.latency import lines
from edgeprune.report.pictures.operators import operators as operator_bars
from edgeprune.report.pictures.operators import rows
from edgeprune.report.pictures.speed_quality import speed_quality as scatter
from edgeprune.report.points import Point as Shown
from edgeprune.report.points import points
from edgeprune.report.records import BuildRecord, Quality, ratio
from edgeprune.report.sections.part import NOT_RECORDED, Section, Table
from edgeprune.report.story import meaning, requirements, verdict

_SIDES = {side: name for side, (_, name) in SIDES.items()}


def result(record: BuildRecord) -> Section:
    """Original beside result, figure by figure."""
    listed: list[list[str | Cell]] = [
        [row.what, row.original, row.result, row.change] for row in comparison(record)
    ]
    table = Table(("measured", "original", "result", "change"), listed)
    return Section(
        "result",
        "Before and after",
        tables=[table],
        text=conditions(record),
        items=meaning(record),
    )


def required(record: BuildRecord) -> Section:
    """The recipe's requirements beside what was measured; empty where it has none."""
    judged = requirements(record)
    listed: list[list[str | Cell]] = [
        [
            each.of,
            each.asked,
            Cell(each.measured, each.interval),
            Cell("met") if each.met else Cell("missed", tone="worse"),
        ]
        for each in judged
    ]
    head = ("requirement", "asked", "measured", "")
    tables = [Table(head, listed, words=frozenset({0, 1}))] if judged else []
    return Section("required", "What was required", tables=tables, text=verdict(judged))


def speed_quality(record: BuildRecord, others: Sequence[Other]) -> Section:
    """Every model with both, in a picture, and all of them in a table."""
    quality = Quality.of(record.main_quality)
    pictures, tables = [], []
    for work in record.works:
        found = points(record, others, work)
        shown = [point for point in found if point.speed and point.quality]
        pictures.append(scatter(f"speed-quality-{work}", shown, quality, work))
        head = (f"at {WORK.get(work, work)}", "times as fast", quality.words, "MB")
        tables.append(Table(head, [_point_row(point) for point in found]))
    text = f"Quality is {quality.words} on {quality.data}. Bars are 95 % intervals, "
    if quality.difference is None:
        text += "and the original agrees with itself by definition."
    else:
        text += "of quality those of the paired difference to the original."
    apart = [f"{point.name}: {point.why}." for point in found if point.why]
    title = "Quality against speed"
    return Section("quality-and-speed", title, pictures, tables, text, items=apart)


def _point_row(point: Shown) -> list[str | Cell]:
    speed = quality = Cell("–")
    if point.speed:
        speed = Cell("1.00x") if point.speed.exact else times(point.speed)
    if point.quality:
        quality = cell(point.quality)
    size = f"{point.megabytes:.1f}" if point.megabytes is not None else "–"
    return [point.name, speed, quality, size]


def latency(record: BuildRecord) -> Section:
    """The growth of a call's time with the settings that were swept."""
    here = record.speed.point
    later = [speed.point for speed in record.later_speeds]
    found = [*(record.measured.curve or ()), *later, here]
    pictures, tables = [], []
    for work in record.works:
        for place, (key, stays, line) in enumerate(lines(found)):
            pictures.append(latency_lines(f"latency-{place}-{work}", work, key, stays, line))
            tables.append(_latency_table(work, key, line))
    text = (
        "Medians with 95 % intervals; both axes are logarithmic. Lengths other than "
        f"{here.settings.tokens} tokens were timed briefly."
    )
    if not pictures:
        off = record.recipe.get("measure", {}).get("curve") == []
        text = "Measured at one length alone: measure.curve is empty." if off else NOT_RECORDED
    return Section("latency", "Time of a call, by length of text", pictures, tables, text)


def _latency_table(work: Work, key: str, line: Sequence[Point]) -> Table:
    head = (
        f"{key}, {WORK.get(work, work)}",
        *(f"{side}, ms" for side in _SIDES.values()),
        "times as fast",
    )
    listed: list[list[str | Cell]] = []
    for point in line:
        found = point.measures[work]
        row = [
            f"{found.sides[side].median_ms:.2f}" if side in found.sides else "–" for side in _SIDES
        ]
        gain = times(ratio(found.ratio)) if found.ratio else Cell("–")
        listed.append([str(getattr(point.settings, key)), *row, gain])
    return Table(head, listed)


def operators(record: BuildRecord) -> Section:
    """The time of a call by operator, before and after."""
    speeds = [record.speed, *record.later_speeds]
    profile = next((each.profile for each in speeds if each.profile), {})
    pictures, tables = [], []
    notes = [
        f"No time of the {_SIDES[side]}: {found.missing}."
        for sides in profile.values()
        for side, found in sides.items()
        if isinstance(found, Missing)
    ]
    for work, known in known_profiles(profile).items():
        name = WORK.get(work, work)
        pictures.append(operator_bars(f"operators-{work}", name, known))
        tables.append(_operator_table(name, known))
    text = "By the runtime's own profile of another run, which profiling slows: compare shares."
    if not profile:
        off = record.recipe.get("measure", {}).get("profile") is False
        text = "Not measured: measure.profile is off." if off else NOT_RECORDED
    title = "Where the time of a call goes"
    return Section("operators", title, pictures, tables, " ".join([text, *notes]))


def _operator_table(name: str, sides: Mapping[SideName, Profile]) -> Table:
    head = (f"{name}, ms", *(_SIDES[side] for side in sides))
    listed = [
        [operator, *(f"{spent[side]:.3f}" for side in sides)] for operator, spent in rows(sides)
    ]
    return Table(head, listed)
