"""What published records say of places: their names, and never where this machine has them."""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def called(place: str) -> str:
    """A folder or file of this machine by its name alone; a hub's id or a package as it is."""
    path = Path(place).expanduser()
    return path.resolve().name if path.exists() else place


def without_places(content: Any, stages: Path, places: Iterable[str]) -> Any:
    """Plain JSON values with every mention of a place on this machine replaced by a name.

    Args:
        stages: the folder of a build's stages, each of which is called by the stage's name.
        places: what the user named: models, text, data.
    """
    names = {place: called(place) for place in places}
    here = (str(stages.parent), *names, os.getcwd(), str(Path.home()), tempfile.gettempdir())
    absolute = {form for root in here for form in (os.path.abspath(root), os.path.realpath(root))}
    longest = sorted((absolute | {sys.prefix}) - {os.sep}, key=len, reverse=True)

    def told(text: str) -> str:
        if text in names:
            return names[text]
        if text.startswith((f"{stages}{os.sep}", f"{stages.absolute()}{os.sep}")):
            return Path(text).name.partition("-")[0]
        for root in longest:
            text = text.replace(f"{root}{os.sep}", "").replace(root, Path(root).name)
        return text

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item) for item in value]
        return told(value) if isinstance(value, str) else value

    return walk(content)
