"""The kinds of values that the command line's options take, and what a shell completes of them."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from edgeprune.base.errors import UserError
from edgeprune.base.registry import load_function


class Numbers(click.ParamType):
    """Whole numbers separated by commas."""

    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a whole number, nor several with commas.", param, ctx)


class Duration(click.ParamType):
    """Seconds, as 90s, 30m or 1h; a number alone is seconds."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no time: write it as 90s, 30m or 1h.", param, ctx)
        return float(found[1]) * {"h": 3600, "m": 60}.get(found[2], 1)


class Suffixed(click.ParamType):
    """A number that may have a unit behind it."""

    def __init__(self, unit: str) -> None:
        self.unit, self.name = unit, unit.upper()

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            return float(re.sub(rf"\s*{self.unit}$", "", text, flags=re.IGNORECASE))
        except ValueError:
            self.fail(f"{value!r} is no number of {self.unit}: write it as 10{self.unit}.")


class Place(click.ParamType):
    """A folder or a file, or what stands for one (a hub id, package:NAME): a shell completes names
    of files."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Named(Place):
    """A name of a list, or a file; the list is read for a shell alone.

    Args:
        where: "module:function" that gives the names.
    """

    def __init__(self, where: str) -> None:
        self._where = where

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [name for name in load_function(self._where)() if name.startswith(incomplete)]
        files = super().shell_complete(ctx, param, incomplete)
        return [CompletionItem(name) for name in names] or files


class Listed(click.Choice):
    """One name of a list that is read where a name is given: its file is not for the start.

    Args:
        where: "module:NAMES" of the list, or of names by which something is found.
        first: names before those.
    """

    def __init__(self, where: str, *first: str) -> None:
        self.case_sensitive = True
        self._where, self._first = where, first

    @property
    def choices(self) -> Sequence[str]:  # type: ignore[override]
        return [*self._first, *load_function(self._where)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = self.choices
        if value in names:
            return str(value)
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        name = param.opts[0] if param else "value"
        raise UserError(f"There is no {name} {value!r}: take one of {', '.join(names)}.{hint}")
