"""The output of `edgeprune recipes`."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.names import Name
from edgeprune.pipeline.advice import advice
from edgeprune.pipeline.builds import read
from edgeprune.pipeline.recipe import DEFAULT, explain, read_recipe, shipped

_HINTS = {
    "list": "One recipe: edgeprune recipes NAME. When to take which method: --all.",
    "one": "Every setting with its default: --all. Any of them: edgeprune build {name} --set "
    "STAGE.KEY=VALUE.",
}


def all_of_them(every: bool = False) -> dict[str, Any]:
    """The recipes that ship, by name: what each is for, and what it took and reached where it was
    measured.

    Args:
        every: also when to take which method in one.
    """
    known = read()
    result: dict[str, Any] = {
        "default": DEFAULT,
        "recipes": {
            name: {
                "description": " ".join(read_recipe(name).description.split()),
                "measured": known[name].told if name in known else "",
            }
            for name in shipped()
        },
    }
    return result | ({"methods": advice()} if every else {})


def one(name: str, every: bool = False) -> dict[str, Any]:
    """One recipe: its file, and the settings in it with their meanings.

    Args:
        every: of all settings, those that have their defaults, too.
    """
    recipe = read_recipe(name)
    settings = [
        {"setting": key, "value": value, "default": default, "meaning": meaning}
        for key, value, default, meaning in explain(recipe)
        if every or value != default
    ]
    file = shipped().get(recipe.name)
    return {
        "name": recipe.name,
        "description": " ".join(recipe.description.split()),
        "yaml": file.read_text(encoding="utf-8") if file else recipe.to_yaml(),
        "settings": settings,
        "every": every,
    }


def table(result: dict[str, Any]) -> RenderableType:
    """Either answer for a terminal."""
    if "recipes" in result:
        shown = Table("recipe", "what it does", box=None, padding=(0, 2, 1, 0))
        for name, told in result["recipes"].items():
            mark = "\n(default)" if name == result["default"] else ""
            lines = [told["description"], told["measured"]]
            shown.add_row(f"{name}{mark}", "\n".join(filter(None, lines)))
        if "methods" in result:
            return Group(shown, _methods(result["methods"]))
        return Group(shown, Text(_HINTS["list"]))
    # A copy of it, however long its lines.
    yaml = Text(result["yaml"].rstrip() + "\n", no_wrap=True, overflow="ignore")
    if not result["every"]:
        hint = Text(_HINTS["one"].format(name=result["name"]))
        return Group(yaml, _settings(result["settings"]), Text(), hint)
    return Group(yaml, _settings(result["settings"]))


def _settings(rows: list[dict[str, str]]) -> Table:
    shown = Table("setting", "value", "meaning", box=None, padding=(0, 2, 0, 0))
    for column in shown.columns:
        column.overflow = "fold"  # nothing of a setting is left out, however narrow the terminal
    for row in rows:
        changed = row["value"] != row["default"]
        meaning = row["meaning"] + (f"  [default: {row['default']}]" if changed else "")
        style = "bold" if changed else None
        shown.add_row(Name(row["setting"]), row["value"], meaning, style=style)
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
