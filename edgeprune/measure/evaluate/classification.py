"""Classification: accuracy and macro F1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.measure.evaluate.classes import Answers, Classes
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Aggregate, Quality, Scores
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.classify import Classifier, label_names_of
from edgeprune.text.files import Row
from edgeprune.text.labels import label_names, label_numbers
from edgeprune.text.pairs import FIELDS, document_of


def classification(bundle: Bundle, data: Data) -> Quality:
    """Accuracy and macro F1, both times 100; and precision, recall and F1 of every class.

    `data` has rows with `text` and `label` (and `text_pair` where the model takes pairs); a label
    is a number, or a name that the model's id2label has.
    """
    rows = data.rows(["text", "label"], FIELDS)
    logits, truth = classified(bundle, rows, data.place)
    answers = Answers([row["text"] for row in rows], truth, logits.argmax(axis=1))
    scores = {"label": truth, "found": answers.found}
    return Quality(
        scores,
        accuracy_and_f1(scores),
        {"texts": len(rows)},
        data.groups(rows),
        strata="label",
        aggregate_of=accuracy_and_f1,
        classes=Classes.of(label_names_of(bundle), answers),
    )


def check_rows(rows: Sequence[Row], config: Mapping[str, Any], place: str) -> None:
    """Refuse a label that the model of this configuration does not have.

    Raises:
        UserError: naming the label.
    """
    label_numbers([row["label"] for row in rows], label_names(config), place)


def classified(bundle: Bundle, rows: Sequence[Row], place: str) -> tuple[np.ndarray, np.ndarray]:
    """The model's logits of each row's text [rows, labels], and the true label's number [rows]."""
    classifier = Classifier(bundle)
    truth = np.array(label_numbers([row["label"] for row in rows], classifier.labels, place))
    return classifier.logits([document_of(row, place) for row in rows]), truth


def accuracy_and_f1(scores: Scores) -> Aggregate:
    """Accuracy and macro F1 of resamples of some rows, whose classes are those of all the rows."""
    classes = np.union1d(scores["label"], scores["found"])

    def aggregate(drawn: Scores) -> dict[str, float]:
        truth, found = drawn["label"], drawn["found"]
        return {
            "accuracy": 100 * float((found == truth).mean()),
            "macro_f1": 100 * macro_f1(truth, found, classes),
        }

    return aggregate


def macro_f1(truth: np.ndarray, found: np.ndarray, classes: np.ndarray) -> float:
    """Mean F1 of some classes, each weighing alike, by two lists [n] of their numbers.

    F1 = 2 TP / (2 TP + FP + FN), and 0 for a class that is in neither list.
    """
    count = int(classes.max()) + 1
    hits = np.bincount(truth[truth == found], minlength=count)
    both = np.bincount(truth, minlength=count) + np.bincount(found, minlength=count)
    return float((2 * hits[classes] / np.maximum(both[classes], 1)).mean())
