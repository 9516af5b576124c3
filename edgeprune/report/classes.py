"""A classifier's quality class by class, in sentences and as the rows of a table."""

from collections.abc import Mapping, Sequence

from edgeprune.base.words import listed, many, number
from edgeprune.measure.evaluate.result import Changes, Evaluation, Summary
from edgeprune.measure.evaluate.summary import worst_first
from edgeprune.report.figures import Cell, cell, changed
from edgeprune.report.records import Known, data_name

_NAMED = 3
"""Classes that are named of many."""


def told(quality: Evaluation) -> list[str]:
    """The classes that lost most, the worst ones, and what changed from right to wrong, each in a
    sentence; none of a measure without classes."""
    if not quality.classes:
        return []
    lines = [_worst(quality.classes, data_name(quality.data))]
    if quality.original:
        lines.insert(0, _lost(quality.classes, data_name(quality.data)))
    if quality.changes:
        lines.append(_turned(quality.changes))
    return lines


def _lost(classes: Mapping[str, Summary], data: str) -> str:
    fallen = [
        f"{name} ({number((found.original or {})['f1'] or 0.0)} to "
        f"{number(found.values['f1'] or 0.0)}, {many(found.rows or 0, 'row')})"
        for name, found in worst_first(classes)
        if ((found.difference or {}).get("f1") or 0.0) < 0
    ]
    of = f"of {many(len(classes), 'class', 'classes')} on {data}"
    if not fallen:
        return f"F1 {of}: none fell."
    return f"F1 {of}: {len(fallen):,} fell, most {listed(fallen[:_NAMED])}."


def _worst(classes: Mapping[str, Summary], data: str) -> str:
    lowest = sorted(classes.items(), key=lambda entry: entry[1].values["f1"] or 0.0)[:_NAMED]
    named = [f"{name} ({number(found.values['f1'] or 0.0)})" for name, found in lowest]
    return f"The least F1 on {data}: {listed(named)}."


def _turned(changes: Changes) -> str:
    most = list(changes.right_to_wrong_by_class.items())[:_NAMED]
    which = f", most of {listed([f'{name} ({count:,})' for name, count in most])}" if most else ""
    return (
        f"{many(changes.right_to_wrong, 'text')} that the original has right became wrong{which}; "
        f"{changes.wrong_to_right:,} became right. `edgeprune evaluate --against` shows some."
    )


def rows(quality: Evaluation) -> tuple[Sequence[str], list[list[str | Cell]]]:
    """The head of a table of all classes, and a row of each, those that lost most first."""
    classes, turned = quality.classes or {}, quality.changes
    head = ["class", "rows", "F1", "precision", "recall"]
    if quality.original:
        head[2:3] = ["F1, original", "F1", "change"]
    if turned:
        head += ["right to wrong", "wrong to right"]
    listed_rows: list[list[str | Cell]] = []
    for name, found in worst_first(classes):
        f1 = found.values["f1"] or 0.0
        row: list[str | Cell] = [name, f"{found.rows or 0:,}"]
        if found.original and found.difference:
            ends = (found.difference_interval or {}).get("f1")
            change = changed("f1", Known.of(found.difference["f1"] or 0.0, ends))
            row += [number(found.original["f1"] or 0.0), number(f1), change]
        else:
            row.append(cell(Known.of(f1, (found.interval or {}).get("f1"))))
        row += [number(found.values[key] or 0.0) for key in ("precision", "recall")]
        if turned:
            lost, gained = turned.right_to_wrong_by_class, turned.wrong_to_right_by_class
            row += [f"{lost.get(name, 0):,}", f"{gained.get(name, 0):,}"]
        listed_rows.append(row)
    return head, listed_rows
