"""The user's cache folder."""

from pathlib import Path

import pytest

from edgeprune.base import places


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("EDGEPRUNE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(places.Path, "home", lambda: Path("/home/a"))


@pytest.mark.parametrize(
    ("system", "variables", "folder"),
    [
        ("linux", {}, "/home/a/.cache/edgeprune"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/edgeprune"),
        ("linux", {"XDG_CACHE_HOME": "/x", "EDGEPRUNE_CACHE": "/y"}, "/y"),
        ("darwin", {}, "/home/a/Library/Caches/edgeprune"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/edgeprune"),
        ("win32", {}, "/home/a/AppData/Local/edgeprune"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches(system, variables, folder, monkeypatch):
    monkeypatch.setattr(places.sys, "platform", system)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert places.cache_folder() == Path(folder)
