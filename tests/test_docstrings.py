"""Examples in docstrings hold; test_door.py runs those of the public names, on a model."""

import doctest
import importlib
import re

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


def test_docstrings_begin_with_what_a_reader_searches_for():
    """A noun or a verb, and no question."""
    questions = re.compile(r'"""(What|How|Where|Who) ')
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in FILES
        for line in file.read_text(encoding="utf-8").splitlines()
        if questions.search(line)
    ]
    assert found == []
