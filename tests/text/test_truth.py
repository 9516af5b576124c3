"""Rows with several labels or a score, and what is refused."""

import json

import pytest
from onnx_models import write_jsonl

from edgeprune.base.errors import UserError
from edgeprune.text.sources import read_corpus
from edgeprune.text.truth import multi_labelled

NAMES = ["joy", "love", "fear"]


@pytest.mark.parametrize(
    ("labels", "vector"),
    [
        (["fear", "joy"], [1, 0, 1]),
        ([2, 0], [1, 0, 1]),
        ([], [0, 0, 0]),
        ([0, 1, 1], [0, 1, 1]),
        ([0, 0, 0], [0, 0, 0]),
        ([1.0, 0.0, 1.0], [1, 0, 1]),
        ([0, 1, 2], [1, 1, 1]),
        ([1], [0, 1, 0]),
    ],
)
def test_labels_by_name_by_number_and_one_by_one(labels, vector):
    [text], [found] = multi_labelled([{"text": "a", "labels": labels}], NAMES, "here")
    assert (text, found) == ("a", vector)


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        ("joy", NAMES, "must be a list of the labels"),
        (["hate"], NAMES, "'hate' is none of the model's 3"),
        ([3], NAMES, "3 is none of the model's 3"),
        ([0, 1], NAMES[:2], "may be two numbers, or a yes or no"),
    ],
)
def test_other_labels_are_refused(labels, names, told):
    with pytest.raises(UserError, match=told):
        multi_labelled([{"text": "a", "labels": labels}], names, "here")


@pytest.mark.parametrize("name", ["score", "label", "similarity_score"])
def test_scores_under_the_hubs_names(name, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"sentence1": "a", "sentence2": "b", name: 2.5}])
    found = read_corpus([str(path)], ["LABEL_0"], form="scored")
    assert (found.documents, found.labels) == ([("a", "b")], [2.5])


def test_a_score_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "score": "high"}))
    with pytest.raises(UserError, match="'score' must be a number, and is 'high'"):
        read_corpus([str(path)], ["LABEL_0"], form="scored")
