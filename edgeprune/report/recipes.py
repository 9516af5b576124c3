"""What `edgeprune recipes` shows."""

from typing import Any

from rich.console import RenderableType
from rich.table import Table

from edgeprune.recipe import DEFAULT, explain, read_recipe, shipped


def all_of_them() -> dict[str, Any]:
    """Name -> description of the recipes that ship."""
    return {
        "default": DEFAULT,
        "recipes": {name: read_recipe(name).description.strip() for name in shipped()},
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
        return shown
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
