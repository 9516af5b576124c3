"""What `edgeprune recipes` shows."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from edgeprune.prune.advice import advice
from edgeprune.recipe import DEFAULT, explain, read_recipe, shipped


def all_of_them() -> dict[str, Any]:
    """The recipes that ship, by name, and when to take which method in one."""
    return {
        "default": DEFAULT,
        "recipes": {name: read_recipe(name).description.strip() for name in shipped()},
        "methods": advice(),
    }


def one(name: str) -> dict[str, Any]:
    """One recipe with every setting, its value, default and meaning."""
    recipe = read_recipe(name)
    settings = [
        {"setting": key, "value": value, "default": default, "meaning": meaning}
        for key, value, default, meaning in explain(recipe)
    ]
    return {"name": recipe.name, "description": recipe.description.strip(), "settings": settings}


def table(result: dict[str, Any]) -> RenderableType:
    """Either answer as a table."""
    if "recipes" in result:
        shown = Table("recipe", "what it does", box=None, padding=(0, 2, 1, 0))
        for name, description in result["recipes"].items():
            mark = " (default)" if name == result["default"] else ""
            shown.add_row(f"{name}{mark}", description)
        return Group(shown, _methods(result["methods"]))
    shown = Table(
        "setting",
        "value",
        "default",
        "meaning",
        title=result["description"],
        box=None,
        padding=(0, 2, 0, 0),
        title_justify="left",
    )
    for column in shown.columns:
        column.overflow = "fold"  # nothing of a setting is left out, however narrow the terminal
    for row in result["settings"]:
        changed = row["value"] != row["default"]
        style = "bold" if changed else None
        shown.add_row(
            row["setting"],
            row["value"],
            row["default"] if changed else "",
            row["meaning"],
            style=style,
        )
    return shown


def _methods(rows: list[dict[str, str]]) -> Table:
    measured = any(row["found"] for row in rows)
    shown = Table(
        "setting",
        "value",
        "what it is for, and what was found, in one run each"
        if measured
        else "what it is for (not measured yet)",
        box=None,
    )
    shown.padding = (0, 2, 0, 0)
    before = None
    for row in rows:
        setting = row["setting"] if row["setting"] != before else ""
        shown.add_row(setting, row["value"], f"{row['purpose']} {row['found']}".strip())
        before = row["setting"]
    return shown
