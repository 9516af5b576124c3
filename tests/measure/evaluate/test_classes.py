"""Quality class by class, and what changed, against scikit-learn, seqeval and counting by hand."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import WORDS, classifier_folder, poison, tagger_folder, write_jsonl

from edgeprune.base import bootstrap
from edgeprune.cli import main
from edgeprune.measure.evaluate.changes import changed
from edgeprune.measure.evaluate.classes import Answers, Classes, f1_precision_recall
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.measure.evaluate.summary import by_class, summary, worst_first
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.classify import Classifier
from edgeprune.runtime.multilabel import MultiLabelClassifier
from edgeprune.runtime.tag import Tagger

LABELS = ("bad", "good", "so-so")
NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)


def quality(truth: list[int], found: list[int]) -> Quality:
    answers = Answers([f"text {n}" for n in range(len(truth))], np.array(truth), np.array(found))
    scores = {"label": answers.truth, "right": answers.right}
    return Quality(scores, percentages, {}, strata="label", classes=Classes.of(NAMES, answers))


answered = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40)


@settings(deadline=None)
@given(answered)
def test_each_class_is_scikit_learns(rows: list[tuple[int, int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, found, _ = np.array(rows).T
    counts = Classes.of(NAMES, Answers([], truth, found)).counts(np.arange(len(rows)))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, found, labels=range(5), zero_division=0
    )
    np.testing.assert_allclose(f1_precision_recall(counts), 100 * np.array([f1, precision, recall]))
    np.testing.assert_array_equal(counts[2], support)


@settings(deadline=None)
@given(answered)
def test_changes_are_counted_by_class(rows: list[tuple[int, int, int]]) -> None:
    truth, before, now = (list(column) for column in zip(*rows, strict=True))
    told = changed(quality(truth, now), quality(truth, before), examples=3)
    lost = [(t, n, f"text {i}") for i, (t, b, n) in enumerate(rows) if b == t != n]
    gained = [t for t, b, n in rows if b != t == n]
    assert told.right_to_wrong == len(lost)
    assert told.wrong_to_right == len(gained)
    for found, turned in (
        (told.right_to_wrong_by_class, [t for t, *_ in lost]),
        (told.wrong_to_right_by_class, gained),
    ):
        assert list(found) == [NAMES[t] for t in sorted(set(truth))]
        assert Counter(found) == Counter(NAMES[t] for t in turned)
    assert len(told.examples) == min(3, len(lost))
    known = {(text, NAMES[t], NAMES[n]) for t, n, text in lost}
    assert {(each.text, each.label, each.found) for each in told.examples} <= known
    # Three different classes before any comes twice.
    shown = Counter(each.label for each in told.examples)
    assert len(shown) == min(3, len({t for t, *_ in lost}))


decided = st.lists(
    st.tuples(*[st.lists(st.booleans(), min_size=5, max_size=5)] * 3), min_size=1, max_size=9
)


@settings(deadline=None)
@given(decided)
def test_changes_of_several_labels_are_counted_one_by_one(rows: list[tuple[list[bool]]]) -> None:
    truth, before, now = (np.array(column, float) for column in zip(*rows, strict=True))
    texts = [f"text {n}" for n in range(len(rows))]

    def side(found: np.ndarray) -> Quality:
        answers = Answers(texts, truth, found)
        classes = Classes(NAMES, lambda chosen: np.zeros((3, 5), np.int64), answers)
        return Quality({"found": found}, percentages, {}, classes=classes)

    told = changed(side(now), side(before), examples=100)
    lost = [
        (text, label)
        for text in range(len(rows))
        for label in range(5)
        if before[text, label] == truth[text, label] != now[text, label]
    ]
    assert told.of == "label"
    assert told.right_to_wrong == len(lost) == sum(told.right_to_wrong_by_class.values())
    assert told.right_to_wrong_by_class == {
        name: sum(each == label for _, each in lost) for label, name in enumerate(NAMES)
    }
    assert told.wrong_to_right == int(((before != truth) & (now == truth)).sum())
    found = [
        (texts[text], NAMES[label], ", ".join(np.array(NAMES)[now[text] > 0]) or "none")
        for text, label in lost
    ]
    assert sorted((e.text, e.label, e.found) for e in told.examples) == sorted(found)


def test_a_class_in_a_resample_is_as_often_true_as_in_the_rows() -> None:
    """With one row, its recall has no spread, and its paired difference neither."""
    truth, before, now = [0] * 9 + [1], [0] * 9 + [1], [0] * 6 + [1] * 3 + [1]
    found = by_class(quality(truth, now), quality(truth, before))
    assert list(found) == ["a", "b"]
    assert found["b"].rows == 1
    assert found["b"].interval["recall"] == (100, 100)
    assert found["b"].values["precision"] == pytest.approx(25)
    assert found["b"].difference_interval["recall"] == (0, 0)
    low, high = found["a"].difference_interval["recall"]
    assert found["a"].difference["recall"] == pytest.approx(-100 / 3)
    assert low < -100 / 3 < high
    assert [name for name, _ in worst_first(found, "f1")] == ["b", "a"]


def test_a_classs_interval_is_that_of_the_class_alone() -> None:
    """The joint resamples are those that the class would get by itself."""
    rng = np.random.default_rng(0)
    truth, now = (rng.integers(0, 3, 80).tolist() for _ in range(2))
    mine = quality(truth, now)
    counts = mine.classes.counts

    def alone(scores: dict[str, np.ndarray]) -> dict[str, float]:
        return {"f1": float(f1_precision_recall(counts(scores["row"]))[0, 1])}

    scores = {"row": np.arange(80), "label": np.array(truth)}
    expected = summary(Quality(scores, alone, {}, strata="label"))
    found = by_class(mine)["b"]
    assert found.values["f1"] == pytest.approx(expected.values["f1"])
    assert found.interval["f1"] == pytest.approx(expected.interval["f1"])


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A classifier, one whose second label was made likelier, and labelled rows."""
    place = tmp_path_factory.mktemp("classes")
    original, ours = (classifier_folder(place / name, LABELS) for name in ("original", "ours"))
    poison(ours, "heads", (slice(None), 0), 0.0)
    rng = np.random.default_rng(0)
    rows = [
        {"text": " ".join(rng.choice(WORDS, 4)), "label": LABELS[int(rng.integers(3))]}
        for _ in range(40)
    ]
    return original, ours, write_jsonl(place / "rows.jsonl", rows)


def test_a_classifier_beside_its_original(sides) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    original, ours, data = sides
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    truth = [row["label"] for row in rows]
    before, now = (
        [one.label for one in Classifier(Bundle.open(f)).classify([row["text"] for row in rows])]
        for f in (original, ours)
    )
    found = evaluate(ours, "classification", data, against=original, examples=2)
    for values, answers in (("values", now), ("original", before)):
        expected = metrics.classification_report(truth, answers, output_dict=True, zero_division=0)
        for label in LABELS:
            own = getattr(found.classes[label], values)
            assert own["f1"] == pytest.approx(100 * expected[label]["f1-score"])
            assert own["precision"] == pytest.approx(100 * expected[label]["precision"])
            assert own["recall"] == pytest.approx(100 * expected[label]["recall"])
            assert found.classes[label].rows == expected[label]["support"]
    lost = [n for n in range(40) if before[n] == truth[n] != now[n]]
    assert found.changes.right_to_wrong == len(lost) > 0
    assert {each.text for each in found.changes.examples} <= {rows[n]["text"] for n in lost}
    mean = np.mean([each.values["f1"] for each in found.classes.values()])
    assert found.values["macro_f1"] == pytest.approx(mean)
    alone = evaluate(ours, "classification", data)
    assert alone.changes is None
    assert alone.classes["bad"].original is None
    assert "classes" not in evaluate(ours, "classification", data, classes=False).to_json()


def test_the_command_shows_classes_and_texts_that_became_wrong(sides) -> None:
    original, ours, data = sides
    words = ["evaluate", ours, "--task", "classification", "--data", data, "--against", original]
    told = CliRunner().invoke(main, [str(word) for word in [*words, "--examples", "1"]])
    assert told.exit_code == 0, told.output
    shown = " ".join(told.stdout.split())
    assert "f1 by class, those that lost most first" in shown
    found = evaluate(ours, "classification", data, against=original, examples=1)
    [example] = found.changes.examples
    assert f"{example.label}, now {example.found}: {example.text}" in shown
    assert found.changes.right_to_wrong > 1
    assert f"{found.changes.right_to_wrong} texts that the original has right" in shown
    names = [name for name, _ in worst_first(found.classes, "f1")]
    places = [told.stdout.index(f" {name} ") for name in names]
    assert places == sorted(places)
    refused = CliRunner().invoke(main, [str(word) for word in [*words, "--examples", "-1"]])
    assert refused.exit_code == 2
    assert "--examples must be at least 0" in refused.stderr


def test_each_of_several_labels_is_scikit_learns(tmp_path: Path) -> None:
    report = pytest.importorskip("sklearn.metrics").classification_report
    config = {"problem_type": "multi_label_classification"}
    folder = classifier_folder(tmp_path / "m", LABELS, **config)
    rng = np.random.default_rng(2)
    rows = [
        {
            "text": " ".join(rng.choice(WORDS, 4)),
            "labels": [LABELS[n] for n in rng.permutation(3)[:2]],
        }
        for _ in range(30)
    ]
    found = evaluate(folder, "multilabel", write_jsonl(tmp_path / "rows.jsonl", rows))
    likely = MultiLabelClassifier(Bundle.open(folder)).values([row["text"] for row in rows])
    truth = np.array([[label in row["labels"] for label in LABELS] for row in rows])
    expected = report(truth, likely >= 0.5, target_names=LABELS, output_dict=True, zero_division=0)
    assert set(found.classes) == set(LABELS)
    for label, each in found.classes.items():
        assert each.values["f1"] == pytest.approx(100 * expected[label]["f1-score"])
        assert each.values["precision"] == pytest.approx(100 * expected[label]["precision"])
        assert each.values["recall"] == pytest.approx(100 * expected[label]["recall"])
        assert each.rows == expected[label]["support"]
    assert found.changes is None
    data = tmp_path / "rows.jsonl"
    beside = evaluate(folder, "multilabel", data, against=folder, examples=1).changes
    assert (beside.of, beside.right_to_wrong, beside.examples) == ("label", 0, ())


def test_kinds_of_entities_are_seqevals(tmp_path: Path) -> None:
    report = pytest.importorskip("seqeval.metrics").classification_report
    names = ("O", "B-PER", "I-PER", "B-LOC")
    folder = tagger_folder(tmp_path / "m", names)
    rng = np.random.default_rng(1)
    rows = [
        {"tokens": rng.choice(WORDS, 6).tolist(), "tags": rng.choice(names, 6).tolist()}
        for _ in range(30)
    ]
    found = evaluate(folder, "entities", write_jsonl(tmp_path / "rows.jsonl", rows))
    tagger = Tagger(Bundle.open(folder))
    numbers = tagger.word_labels([" ".join(row["tokens"]) for row in rows])
    expected = report(
        [row["tags"] for row in rows],
        [[names[n] for n in each] for each in numbers],
        output_dict=True,
        zero_division=0,
    )
    assert set(found.classes) == {"PER", "LOC"}
    for kind, each in found.classes.items():
        assert each.values["f1"] == pytest.approx(100 * expected[kind]["f1-score"])
        assert each.values["precision"] == pytest.approx(100 * expected[kind]["precision"])
        assert each.values["recall"] == pytest.approx(100 * expected[kind]["recall"])
        assert each.rows == expected[kind]["support"]
        low, high = each.interval["f1"]
        assert low <= each.values["f1"] <= high
