"""Places on this machine: the cache, and names for places that leave it in published records."""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The user's folder for what may be deleted and made again: EDGEPRUNE_CACHE, or edgeprune in
    the system's folder for such files."""
    if own := os.environ.get("EDGEPRUNE_CACHE"):
        return Path(own)
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "edgeprune"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "edgeprune"
    below = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return Path.home().joinpath(*below, "edgeprune")


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
