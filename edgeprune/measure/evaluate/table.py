"""A quality measure's result as a table for people."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.words import known, number
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER


def evaluate_table(result: dict[str, Any]) -> RenderableType:
    """The result of `evaluate`, at 80 columns."""
    table = _table("", result)
    for name in result["values"]:
        table.add_row(_words(name), *_cells(result, name))
    conditions = ", ".join(
        f"{value:,} {_words(name)}" for name, value in result["conditions"].items()
    )
    notes = [f"{result['data']}: {conditions}", result["bundle"]]
    if sample := result.get("sample"):
        notes.insert(1, sampled(sample))
    if against := result.get("against"):
        notes.append(f"against {against}")
    if result.get("difference") and not result["difference_interval"]:
        notes.append("no interval: the two models' rows cannot be paired, or are fewer than two")
    parts: list[RenderableType] = [Text(result["task"], style="bold"), table]
    if "groups" in result:
        parts += _groups(result)
    return Group(*parts, *(Text(note, style="dim") for note in notes))


def sampled(sample: dict[str, Any]) -> str:
    """Which part of the data was measured, in words."""
    taken = f"{sample['taken']:,} of {sample['of']:,} {sample['unit']}"
    if sample["seed"] is None:
        return f"the first {taken}"
    by = f", by {' and '.join(sample['by'])}" if sample["by"] else ""
    return f"{taken}, drawn by seed {sample['seed']}{by}"


def _groups(result: dict[str, Any]) -> list[RenderableType]:
    """The main value of every group, the worst first, and the worst group for each value."""
    main = next(iter(result["values"]))
    sign = -1 if main in LOWER_IS_BETTER else 1

    def badness(entry: tuple[str, dict[str, Any]]) -> tuple[bool, float]:
        value = entry[1]["values"][main]
        return value is None, sign * (value or 0.0)

    table = _table(result["group"], result)
    table.add_column("rows", justify="right")
    for group, found in sorted(result["groups"].items(), key=badness):
        table.add_row(group, *_cells(found, main), f"{found['rows']:,}")
    lines = [
        f"worst {_words(name)}: {_number(result['groups'][group]['values'][name])}, {group}"
        for name, group in result["worst"].items()
    ]
    for name, group in result.get("largest_loss", {}).items():
        change = result["groups"][group]["difference"][name]
        if change * (-1 if name in LOWER_IS_BETTER else 1) < 0:
            lines.append(f"largest loss of {_words(name)}: {_number(change, '+')}, {group}")
    title = Text(f"{_words(main)} by {result['group']}, the worst first", style="bold")
    return [title, table, *(Text(line) for line in lines), Text("")]


def _table(title: str, result: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(title, overflow="fold")
    columns = ["original", "this bundle", "difference"] if "original" in result else ["this bundle"]
    for column in (*columns, "95 % interval"):
        table.add_column(column, justify="right")
    return table


def _cells(found: dict[str, Any], name: str) -> list[str]:
    """A value; with an original both, their difference, and its interval instead of the value's."""
    if "original" not in found:
        return _known(found["values"][name], found["interval"].get(name))
    return [
        _number(found["original"][name]),
        _number(found["values"][name]),
        *_known(found["difference"][name], found["difference_interval"].get(name), "+"),
    ]


def _known(value: float | None, interval: list[float] | None, sign: str = "") -> list[str]:
    if value is None or not interval:
        return [_number(value, sign), "-"]
    low, high = interval
    shown, ends = known(value, low, high, sign)
    return [shown, ends or f"{shown} to {shown}"]


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else number(value, sign)


def _words(name: str) -> str:
    return name.replace("_", " ")
