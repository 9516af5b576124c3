"""`edgeprune run` on files of rows, beside what the runtime answers to their texts."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx_models import classifier_folder, encoder_folder

from edgeprune import runtime
from edgeprune.cli import main

ROWS = [{"id": 7, "text": "the cat"}, {"id": 8, "text": "a dog sat", "more": ["x"]}]


def edgeprune(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("rows") / "encoder")


def test_rows_are_written_with_their_answers(folder, tmp_path):
    source, target = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert edgeprune(folder, "--input", source, "--output", target).exit_code == 0
    written = [json.loads(line) for line in target.read_text().splitlines()]
    expected = runtime.load(folder).embed([str(row["text"]) for row in ROWS])
    np.testing.assert_allclose([row.pop("embedding") for row in written], expected, rtol=1e-5)
    assert written == ROWS
    printed = edgeprune(folder, "--input", source)
    assert printed.stdout == target.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_texts_that_were_cut_are_counted_once(tmp_path):
    folder = encoder_folder(tmp_path / "m", max_position_embeddings=6)
    (tmp_path / "rows.txt").write_text("\n".join(["the cat"] * 50 + ["the cat sat on a mat"] * 3))
    told = " ".join(edgeprune(folder, "--input", tmp_path / "rows.txt").stderr.split())
    assert told.endswith(
        "Warning: 3 of 53 texts are longer than the model's 6 tokens and were cut. --chunk embeds "
        "such texts in parts."
    )
    assert told.count("Warning") == 1
    one = edgeprune(folder, "the cat sat on a mat").stderr
    assert "Warning: The text is longer than the model's 6 tokens and was cut." in one


def test_other_files_names_and_tasks(tmp_path):
    folder = classifier_folder(tmp_path / "classifier")
    (tmp_path / "rows.csv").write_text("phrase\nthe cat\na dog\n")
    (tmp_path / "rows.txt").write_text("the cat\n\na dog\n")
    found = [
        [json.loads(line) for line in edgeprune(folder, "--input", *given).stdout.splitlines()]
        for given in (
            [tmp_path / "rows.csv", "--field", "text=phrase"],
            [tmp_path / "rows.txt"],
        )
    ]
    labels = [each.label for each in runtime.load(folder).classify(["the cat", "a dog"])]
    assert [[row["label"] for row in rows] for rows in found] == [labels, labels]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--output", "out.jsonl"], "for a file of rows: name it with --input"),
        (["the cat", "--input", "rows.csv"], "a text or --input, not both"),
        (["--input", "rows.csv"], "no field 'text'; it has phrase"),
        (["--input", "none.jsonl"], "There is no file none.jsonl"),
    ],
)
def test_mistakes_are_told(given, words, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("phrase\nthe cat\n")
    result = edgeprune(folder, *given)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not Path("out.jsonl").exists()


def test_a_task_without_prompts_or_parts_says_so(tmp_path):
    folder = classifier_folder(tmp_path / "classifier")
    for option in (["--prompt", "query"], ["--chunk"]):
        result = edgeprune(folder, "the cat", *option)
        assert result.exit_code == 2
        assert f"knows no {option[0]}: leave it out" in result.stderr


def test_nothing_is_left_of_a_file_that_is_not_whole(folder, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (tmp_path / "out.jsonl").write_text("before")

    def failing(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "out.jsonl"))

    monkeypatch.setattr("edgeprune.runtime.rows.json.dumps", failing)
    files = (tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    result = edgeprune(folder, "--input", files[0], "--output", files[1])
    assert result.exit_code == 2
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_rows_own_label_stays_beside_the_answer(tmp_path):
    """In every row, though one alone has it; and what was named so before has another name."""
    folder = classifier_folder(tmp_path / "classifier")
    rows = [{"text": "the cat", "label": "mine", "answer_label": 1}, {"text": "a dog"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = edgeprune(folder, "--input", tmp_path / "rows.jsonl")
    written = [json.loads(line) for line in result.stdout.splitlines()]
    labels = [each.label for each in runtime.load(folder).classify(["the cat", "a dog"])]
    assert [row.pop("answer_answer_label") for row in written] == labels
    assert all(row.pop("probabilities") for row in written)
    assert written == rows
