"""A quality measure's result as a table for people."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def evaluate_table(result: dict[str, Any]) -> RenderableType:
    """The result of `evaluate`, at 80 columns."""
    conditions = ", ".join(
        f"{value:,} {name.replace('_', ' ')}" for name, value in result["conditions"].items()
    )
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    original, difference = result.get("original"), result.get("difference")
    if original:
        table.add_column("original", justify="right")
    table.add_column("this bundle", justify="right")
    if difference:
        table.add_column("difference", justify="right")
    for name, value in result["values"].items():
        cells = [f"{original[name]:.4g}"] if original else []
        cells.append(f"{value:.4g}")
        cells += [f"{difference[name]:+.4g}"] if difference else []
        table.add_row(name.replace("_", " "), *cells)
    notes = [f"{result['data']}: {conditions}", result["bundle"]]
    if against := result.get("against"):
        notes.append(f"against {against}")
    return Group(
        Text(result["task"], style="bold"), table, *(Text(note, style="dim") for note in notes)
    )
