"""A build opens every file of the user's text once, however many of its stages read the text."""

import os
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from tiny_builds import model_folder, recipe_file, sentence_lines

from edgeprune.cli import main

RECIPE = """
name: once
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
vocabulary: {}
recover: {steps: 2, checks: 1, precision: float32}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.1, launches: 1, profile: false, curve: [], stages: false}
"""


@pytest.fixture(scope="module")
def opened() -> Iterator[Counter[str]]:
    """How often this process opened each file by its path; an audit hook cannot be taken away, so
    it is silenced."""
    counts: Counter[str] = Counter()
    listening = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open" and isinstance(arguments[0], str):
            counts[os.path.realpath(arguments[0])] += 1

    sys.addaudithook(note)
    yield counts
    listening = False


def test_every_file_of_text_is_opened_once(opened, tmp_path):
    model = model_folder(tmp_path / "model", pieces=True)
    folder = tmp_path / "texts"
    folder.mkdir()
    files = [tmp_path / "first.txt", folder / "a.txt", folder / "b.txt", tmp_path / "further.txt"]
    for seed, file in enumerate(files):
        file.write_text("\n".join(sentence_lines(40, seed)), encoding="utf-8")
    given = ["build", recipe_file(tmp_path / "once.yaml", RECIPE), "--model", model]
    given += ["--data", files[0], "--data", folder, "--set", f"vocabulary.data=[{files[3]}]"]
    build = [*map(str, given), "--output", str(tmp_path / "out")]
    for _ in range(2):  # the second goes on from kept stages, and asks for their keys
        opened.clear()
        done = CliRunner().invoke(main, build, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert {file.name: opened[os.path.realpath(file)] for file in files} == {
            file.name: 1 for file in files
        }
