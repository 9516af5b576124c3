"""A quality measure's result as a table for people."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.words import known, many, number
from edgeprune.measure.evaluate.result import (
    LOWER_IS_BETTER,
    Changes,
    Evaluation,
    Sample,
    Summary,
)
from edgeprune.measure.evaluate.summary import worst_first

_WORDS = {
    ("retrieval", "overlap_at_10"): "neighbours kept, 10-recall@10",
    ("retrieval", "recall_at_10"): "nearest one kept, 1-recall@10",
    ("ranking", "recall_at_10"): "relevant ones found, recall@10",
}
"""(measure, value) -> words, where one name is of several things: recall of an index, whose truth
is another's order, and recall of a search, whose truth is what people judged to be relevant."""
_CLASSES = 10
"""Classes that are shown of many."""
_SHOWN = 160
"""Characters of an example."""


def evaluate_table(result: Evaluation) -> RenderableType:
    """The result of `evaluate`, at 80 columns."""
    paired = result.original is not None
    table = _table("", paired)
    for name in result.values:
        table.add_row(value_words(result.task, name), *_cells(result, name))
    conditions = ", ".join(f"{value:,} {_words(name)}" for name, value in result.conditions.items())
    notes = [f"{result.data}: {conditions}", *([result.bundle] if result.bundle else [])]
    if result.sample:
        notes.insert(1, sampled(result.sample))
    if result.against:
        notes.append(f"against {result.against}")
    if paired and not result.difference_interval:
        notes.append("no interval: the two models' rows cannot be paired, or are fewer than two")
    parts: list[RenderableType] = [Text(result.task, style="bold"), table]
    if result.groups:
        parts += _groups(result, result.groups)
    if result.classes:
        parts += _classes(result.classes)
    if result.changes:
        parts += _changes(result.changes)
    return Group(*parts, *(Text(note, style="dim") for note in notes))


def value_words(measure: str, name: str) -> str:
    """A measure's value in words."""
    return _WORDS.get((measure, name), _words(name))


def sampled(sample: Sample) -> str:
    """Which part of the data was measured, in words."""
    taken = f"{sample.taken:,} of {sample.of:,} {sample.unit}"
    if sample.seed is None:
        return f"the first {taken}"
    by = f", by {' and '.join(sample.by)}" if sample.by else ""
    return f"{taken}, drawn by seed {sample.seed}{by}"


def _groups(result: Evaluation, groups: Mapping[str, Summary]) -> list[RenderableType]:
    """The main value of every group, the worst first, and the worst group for each value."""
    main = next(iter(result.values))
    sign = -1 if main in LOWER_IS_BETTER else 1

    def badness(entry: tuple[str, Summary]) -> tuple[bool, float]:
        value = entry[1].values[main]
        return value is None, sign * (value or 0.0)

    table = _table(result.group or "", result.original is not None)
    table.add_column("rows", justify="right")
    for group, found in sorted(groups.items(), key=badness):
        table.add_row(group, *_cells(found, main), f"{found.rows:,}")
    lines = [
        f"worst {value_words(result.task, name)}: {_number(groups[group].values[name])}, {group}"
        for name, group in (result.worst or {}).items()
    ]
    for name, group in (result.largest_loss or {}).items():
        change = (groups[group].difference or {})[name]
        if change is not None and change * (-1 if name in LOWER_IS_BETTER else 1) < 0:
            words = value_words(result.task, name)
            lines.append(f"largest loss of {words}: {_number(change, '+')}, {group}")
    title = Text(
        f"{value_words(result.task, main)} by {result.group}, the worst first", style="bold"
    )
    return [title, table, *(Text(line) for line in lines), Text("")]


def _classes(classes: Mapping[str, Summary]) -> list[RenderableType]:
    paired = any(each.original for each in classes.values())
    table = _table("", paired)
    for name in ("precision", "recall", "rows"):
        table.add_column(name, justify="right")
    for name, found in worst_first(classes, "f1")[:_CLASSES]:
        shares = [_number(found.values[value]) for value in ("precision", "recall")]
        table.add_row(name, *_cells(found, "f1"), *shares, f"{found.rows:,}")
    by = "those that lost most first" if paired else "the worst first"
    parts: list[RenderableType] = [Text(f"f1 by class, {by}", style="bold"), table]
    if (more := len(classes) - _CLASSES) > 0:
        parts.append(
            Text(f"and {many(more, 'class', 'classes')} more: --json has all", style="dim")
        )
    return [*parts, Text("")]


def _changes(changes: Changes) -> list[RenderableType]:
    """The number of texts that were right and are wrong now, and some of them."""
    lines = [
        f"{many(changes.right_to_wrong, changes.of)} that the original has right "
        f"{'is' if changes.right_to_wrong == 1 else 'are'} wrong now, "
        f"{changes.wrong_to_right:,} the other way round"
    ]
    for each in changes.examples or ():
        text = " ".join(each.text.split())
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        lines.append(f"  {each.label}, now {each.found}: {shown}")
    return [*(Text(line) for line in lines), Text("")]


def _table(title: str, paired: bool) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(title, overflow="fold")
    columns = ["original", "this bundle", "difference"] if paired else ["this bundle"]
    for column in (*columns, "95 % interval"):
        table.add_column(column, justify="right")
    return table


def _cells(found: Evaluation | Summary, name: str) -> list[str]:
    """A value; with an original both, their difference, and its interval instead of the value's."""
    value = found.values[name]
    if found.original is None:
        return _known(value, (found.interval or {}).get(name))
    return [
        _number(found.original[name]),
        _number(value),
        *_known((found.difference or {})[name], (found.difference_interval or {}).get(name), "+"),
    ]


def _known(value: float | None, interval: tuple[float, float] | None, sign: str = "") -> list[str]:
    if value is None or not interval:
        return [_number(value, sign), "-"]
    low, high = interval
    shown, ends = known(value, low, high, sign)
    return [shown, ends or f"{shown} to {shown}"]


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else number(value, sign)


def _words(name: str) -> str:
    return name.replace("_", " ")
