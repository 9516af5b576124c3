"""The text of a build: one split for all who ask, and the same facts for records and for people."""

import json
from pathlib import Path

import pytest
from onnx_models import encoder_folder, write_jsonl

from edgeprune.base.errors import UserError
from edgeprune.model.tasks import TASKS
from edgeprune.text.readers import READERS
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text, open_text
from edgeprune.text.truth import FORMS


@pytest.fixture
def rows(tmp_path) -> Path:
    """Forty labelled texts of two sentences, of which one is too short to train on."""
    texts = [f"A line of number {number}. Too short." for number in range(40)]
    labelled = [
        {
            "text": text,
            "label": n % 2,
            "labels": ["good"] * (n % 2),
            "score": n / 7,
            "tokens": text.split(),
            "tags": [n % 2] * len(text.split()),
            "question": "Short?",
            "context": text,
            "answer": text[2:6],
            "answer_start": 2,
        }
        for n, text in enumerate(texts)
    ]
    return write_jsonl(tmp_path / "rows.jsonl", labelled)


def opened(rows: Path, reads: str = "sentences", seed: int = 3, **settings) -> Text:
    labels = ["bad", "good"] if reads in FORMS else None
    settings = {"held_out": 0.2, "max_tokens": 8, "batch_tokens": 64, **settings}
    return open_text(TextSettings(data=str(rows), **settings), reads, seed, labels)


@pytest.mark.parametrize("reads", sorted(READERS))
def test_all_who_ask_get_the_same_split(reads, rows, tmp_path):
    text, folder = opened(rows, reads), encoder_folder(tmp_path)
    labels = ["bad", "good"] if reads in FORMS else None
    train, held_out = read_corpus([str(rows)], labels, form=reads).split(0.2, 3)
    assert (text.train, text.held_out) == (train, held_out)
    assert text.train is text.train  # its sentences are told apart once
    reader = text.reader(folder)
    assert reader.train is text.train
    assert reader.held_out is text.held_out


def test_the_seed_decides_the_split_and_not_the_digest(rows):
    one, other = opened(rows, seed=0), opened(rows, seed=1)
    assert one.held_out != other.held_out
    assert one.digest == other.digest == read_corpus([str(rows)]).digest


def test_a_record_and_a_person_are_told_the_same(rows):
    text = opened(rows)
    facts = text.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts == {
        "source": str(rows),
        "documents": 40,
        "digest": text.digest,
        "sentences": 40,
        "left_out": {"sentences shorter than 3 words": 40},
    }
    assert text.line == (
        f"40 texts from {rows}: 40 sentences; left out: 40 sentences shorter than 3 words"
    )


@pytest.mark.parametrize("reads", ["labelled", "windows"])
def test_only_encoders_are_told_of_sentences(reads, rows):
    text = opened(rows, reads)
    assert set(text.facts()) == {"source", "documents", "digest"}
    labels = ": 2 labels of 20 texts" if reads == "labelled" else ""
    assert text.line == f"40 texts from {rows}{labels}"


def test_further_texts_of_the_vocabulary_train_nothing(rows, tmp_path):
    further = tmp_path / "further.txt"
    further.write_text("one more line\n")
    text = open_text(TextSettings(data=str(rows)), "sentences", 0, vocabulary=[str(further)])
    assert text.vocabulary is not None
    assert text.vocabulary.documents == ["one more line"]
    assert "one more line" not in {*text.train.documents, *text.held_out.documents}
    assert text.digest == opened(rows).digest
    assert opened(rows).vocabulary is None
    with pytest.raises(UserError, match="There is no file or folder"):
        open_text(TextSettings(data=str(rows)), "sentences", 0, vocabulary=["./nowhere"])


def test_a_single_text_is_refused_where_it_is_split(tmp_path):
    (tmp_path / "one.txt").write_text("a single line of text")
    text = opened(tmp_path / "one.txt")
    with pytest.raises(UserError, match="holds a single text; give at least two"):
        _ = text.train


def test_every_task_has_a_reader():
    assert {task.reads for task in TASKS.values()} == set(READERS)
