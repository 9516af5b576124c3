"""Paths in published records: names of files and folders, never their locations on this machine."""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def called(place: str) -> str:
    """The bare name of a local folder or file; a hub id or a package unchanged."""
    path = Path(place).expanduser()
    return path.resolve().name if path.exists() else place


def without_places(content: Any, stages: Path, places: Iterable[str]) -> Any:
    """Plain JSON values with every path on this machine replaced by a name.

    Args:
        stages: the folder of a build's stages; each folder in it is replaced by the stage's name.
        places: the models, text and data that the user named.
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
