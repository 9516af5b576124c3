"""Several builds on one page: speed, size, quality, and how their recipes differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.words import listed, number
from edgeprune.measure.works import Work
from edgeprune.report.figures import WORK, Cell, Row, cell, changed, comparison, times
from edgeprune.report.others import Other
from edgeprune.report.pictures.bars import bars
from edgeprune.report.pictures.speed_quality import speed_quality
from edgeprune.report.points import Point, points
from edgeprune.report.records import BuildRecord, Quality, ratio
from edgeprune.report.sections.part import Section, Table

_ORIGINAL = "original"
_ON = "on"
_NAMES = ("name", "description")


def names_of(folders: Sequence[Path]) -> list[str]:
    """The names of builds: their folders' names, or whole paths where two are the same."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def sections(records: Sequence[BuildRecord], others: Sequence[Other] = ()) -> list[Section]:
    """The parts of the page.

    Raises:
        UserError: the builds do different tasks.
    """
    tasks = dict.fromkeys(record.task for record in records)
    if len(tasks) > 1:
        raise UserError(
            f"These builds do {listed(list(tasks))}: one page compares builds of one task."
        )
    found = [_table(records), _beside(records), _pictures(records, others), _recipes(records)]
    return [section for section in [*found, _caution(records)] if not section.empty]


def _table(records: Sequence[BuildRecord]) -> Section:
    works = records[0].works
    head = ["build", *(f"{WORK.get(work, work)}, times as fast" for work in works)]
    scores = [Quality.of(record.main_quality) for record in records]
    words = list(dict.fromkeys(score.words for score in scores))
    paired = any(score.difference for score in scores)
    head += ["MB", "peak MB", listed(words), *(["change"] if paired else []), "min"]
    rows: list[list[str | Cell]] = []
    for record, score in zip(records, scores, strict=True):
        known = [ratio(record.speed.measures[work].ratio) for work in works]
        result = record.speed.candidate
        seconds = sum(stage.get("seconds", 0) for stage in record.content["stages"])
        rows.append(
            [
                record.name,
                *map(times, known),
                f"{(result.model_bytes or 0) / 1e6:.1f}",
                f"{(result.peak_memory_bytes or 0) / 1e6:.0f}",
                _quality(score, alone=len(words) == 1),
                *([_change(score)] if paired else []),
                f"{seconds / 60:.1f}",
            ]
        )
    text = (
        "Each build's speed is measured against its own original in its own run; intervals are of "
        "95 %. MB are of graph and data, and of peak memory; min: what the build took, in minutes."
    )
    return Section("builds", "The builds", tables=[Table(head, rows)], text=text)


def _beside(records: Sequence[BuildRecord]) -> Section:
    """Of two builds every figure side by side, each with its change to its own original; of more
    the table of builds is enough."""
    if len(records) != 2:
        return Section("beside", "Side by side")
    first, second = ({row.what: row for row in comparison(record)} for record in records)
    nothing = Row("", Cell("–"), Cell("–"), Cell("–"))
    rows: list[list[str | Cell]] = []
    for what in dict.fromkeys((*first, *second)):
        left, right = first.get(what, nothing), second.get(what, nothing)
        original = left.original if left.original.text.strip("–") else right.original
        rows.append([what, original, left.result, left.change, right.result, right.change])
    names = [name for record in records for name in (record.name, "change")]
    text = (
        f"The original's figures are those that {records[0].name} was measured beside; each change "
        "is to a build's own original, in its own run. `edgeprune bench` with --against measures "
        "the two bundles at once."
    )
    table = Table(["measured", "original", *names], rows)
    return Section("beside", "Side by side", tables=[table], text=text)


def _quality(quality: Quality, alone: bool) -> Cell:
    """The value, named where it does not stand `alone` in its column."""
    shown = Cell(number(quality.value.value)) if quality.difference else cell(quality.value)
    return shown if alone else Cell(f"{quality.words} {shown.text}", shown.interval)


def _change(quality: Quality) -> Cell:
    """The paired difference to the original, where the measure is a model's own."""
    return changed(quality.key, quality.difference) if quality.difference else Cell("–")


def _pictures(records: Sequence[BuildRecord], others: Sequence[Other]) -> Section:
    """Quality against speed, a picture for each main measure and kind of work; size and memory."""
    groups: dict[tuple[str, str, str], list[BuildRecord]] = {}
    for record in records:
        quality = Quality.of(record.main_quality)
        groups.setdefault((quality.measure, quality.key, quality.data), []).append(record)
    pictures, notes = [], []
    for place, group in enumerate(groups.values()):
        quality = Quality.of(group[0].main_quality)
        for work in group[0].works:
            shown = _shown(group, others, work)
            pictures.append(speed_quality(f"together-{place}-{work}", shown, quality, work))
        notes.append(f"{quality.words.capitalize()} is that on {quality.data}.")
    pictures += _sizes(records)
    notes.append(f"Bars are 95 % intervals. The original of sizes is that of {records[0].name}.")
    return Section("pictures", "Quality, speed and size", pictures, text=" ".join(notes))


def _shown(group: Sequence[BuildRecord], others: Sequence[Other], work: Work) -> list[Point]:
    """The original once, every result by its build's name, and the others."""
    first = points(group[0], others, work)
    found = [point for point in first if point.kind == _ORIGINAL]
    for record in group:
        quality = Quality.of(record.main_quality).beside
        found.append(
            Point(record.name, "result", ratio(record.speed.measures[work].ratio), quality)
        )
    found += [point for point in first if point.kind == "other"]
    return [point for point in found if point.speed and point.quality]


def _sizes(records: Sequence[BuildRecord]) -> list[str]:
    """Bars of what builds take on disk and in memory."""
    pictures = []
    for key, title in (("model_bytes", "graph and data"), ("peak_memory_bytes", "peak memory")):
        values = {_ORIGINAL: getattr(records[0].speed.baseline, key) / 1e6}
        values |= {record.name: getattr(record.speed.candidate, key) / 1e6 for record in records}
        pictures.append(bars(f"together-{key}", f"{title}, MB", values, ",.1f", grey=[_ORIGINAL]))
    return pictures


def _recipes(records: Sequence[BuildRecord]) -> Section:
    """Every setting in which the recipes differ."""
    flat = [dict(_settings(record.recipe)) for record in records]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [key for key in keys if key not in _NAMES and _differs(key, flat)]
    rows = [[key, *(_shown_setting(settings, key) for settings in flat)] for key in differing]
    head = ["setting", *(record.name for record in records)]
    tables = [Table(head, rows)] if rows else []
    text = "" if rows else "The recipes are the same."
    return Section("recipes", "Where the recipes differ", tables=tables, text=text)


def _differs(key: str, flat: Sequence[dict[str, Any]]) -> bool:
    """Whether recipes that have a setting have different values; a stage that one leaves out is one
    difference, not one of each of its settings."""
    return len({repr(settings[key]) for settings in flat if key in settings}) > 1


def _settings(content: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += [(f"{path}{key}", _ON), *_settings(value, f"{path}{key}.")]
        else:
            found.append((f"{path}{key}", value))
    return found


def _shown_setting(settings: dict[str, Any], key: str) -> str:
    if key not in settings:
        return "–"
    value = settings[key]
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _caution(records: Sequence[BuildRecord]) -> Section:
    """The differences that make the builds hard to compare."""
    asked = {
        "their originals' weights": [record.content["source"].get("sha256") for record in records],
        "the text that they learned from": [
            record.content.get("text", {}).get("digest") for record in records
        ],
        "the processor": [record.speed.machine.processor for record in records],
        "the runtime": [record.speed.machine.onnxruntime for record in records],
        "the timed work": [
            [getattr(record.speed.settings, key) for key in ("tokens", "batch", "threads")]
            for record in records
        ],
        "the rows that quality was measured on": [
            record.main_quality.conditions for record in records
        ],
    }
    items = [
        f"They differ in {what}."
        for what, values in asked.items()
        if len({repr(value) for value in values}) > 1
    ]
    if noisy := [r.name for r in records if r.speed.noise and r.speed.noise.noisy]:
        items.append(f"The machine was noisy when it measured {listed(noisy)}.")
    items.append("Builds measured at different times met a machine in different states.")
    return Section("caution", "Before comparing", items=items)
