"""The public names of `edgeprune`: their examples run as they stand, on a model of a user's."""

import doctest
import functools
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from on_device import on_a_device
from tiny_builds import model_folder, text_file

import edgeprune


def test_every_public_function_has_an_example_that_runs(tmp_path, monkeypatch):
    model_folder(tmp_path / "model")
    text_file(tmp_path / "text.txt", 120)
    monkeypatch.chdir(tmp_path)
    short = {
        "text.max_tokens": 16,
        "quantize.calibration_samples": 8,
        "measure.tokens": 12,
        "measure.seconds": 0.2,
        "measure.launches": 1,
        "measure.curve": [],
        "measure.stages": False,
    }
    functions = {
        name: getattr(edgeprune, name)
        for name in edgeprune.__all__
        if inspect.isfunction(getattr(edgeprune, name))
    }
    quick = functools.partial(edgeprune.build, settings=short)
    monkeypatch.setattr(edgeprune, "build", quick)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in ("build", "load", "evaluate", "bench"):  # each goes on from what build left
        (test,) = finder.find(functions.pop(name), name, globs={"edgeprune": edgeprune})
        assert test.examples, name
        runner.run(test)
    assert functions == {}
    assert runner.failures == 0


def test_what_is_public_is_what_the_page_of_stability_names():
    page = Path(edgeprune.__file__).parents[1] / "docs" / "stability.md"
    if not page.is_file():
        pytest.skip("no checkout: the package is installed alone")
    text = page.read_text(encoding="utf-8")
    for name in edgeprune.__all__:
        assert f"`{name}`" in text or f"`edgeprune.{name}`" in text, name


def test_names_are_there_without_torch_and_cost_nothing_until_they_are_used():
    code = """
import sys, edgeprune
print(edgeprune.Bundle.__name__, callable(edgeprune.load), 'onnxruntime' in sys.modules)
"""
    assert on_a_device(code) == "Bundle True False\n"
    loaded = "import edgeprune, sys; print(sorted({'numpy', 'pydantic', 'rich'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        _ = edgeprune.prune


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(edgeprune.UserError, match=r"no recipe 'encodr'; did you mean 'encoder'"):
        edgeprune.build("model", "text.txt", "encodr")
    with pytest.raises(edgeprune.UserError, match=r"no setting 'quantize\.bits'"):
        edgeprune.build("model", "text.txt", settings={"quantize.bits": 4})
    with pytest.raises(edgeprune.UserError, match="settings hold what YAML cannot"):
        edgeprune.build("model", "text.txt", settings={"prune.steps": object()})
    with pytest.raises(edgeprune.UserError, match="no folder"):
        edgeprune.load(tmp_path / "absent")
    with pytest.raises(edgeprune.UserError, match=r"^tokens: Input should be greater"):
        edgeprune.bench("bundle", tokens=0)
    with pytest.raises(edgeprune.UserError, match=r"^steps: Extra inputs"):
        edgeprune.bench("bundle", steps=1)


def test_a_missed_requirement_is_an_error_of_its_own(tmp_path, monkeypatch):
    """It is raised after the bundle was written, and is not a mistake of the user's."""
    model = model_folder(tmp_path / "model")
    text = text_file(tmp_path / "text.txt", 120)
    settings = {
        "text.max_tokens": 16,
        "quantize.calibration_samples": 8,
        "measure": {"tokens": 12, "seconds": 0.2, "launches": 1, "curve": [], "stages": False},
        "require": {"megabytes": 0.001},
    }
    with pytest.raises(edgeprune.RequirementMissed, match=r"MB"):
        edgeprune.build(model, [text], "encoder-int8", output=tmp_path / "out", settings=settings)
    assert edgeprune.Bundle.open(tmp_path / "out" / "bundle").manifest["stages"]
    assert not issubclass(edgeprune.RequirementMissed, edgeprune.UserError)
