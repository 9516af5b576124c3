"""Examples in docstrings hold; test_door.py runs those of the public names, on a model."""

import doctest
import importlib

import pytest
from on_device import FILES, ROOT


@pytest.mark.parametrize(
    "name",
    [
        ".".join((ROOT.name, *file.relative_to(ROOT).with_suffix("").parts))
        for file in FILES
        if file != ROOT / "__init__.py" and ">>> " in file.read_text(encoding="utf-8")
    ],
)
def test_examples_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert done.attempted > 0
    assert done.failed == 0
