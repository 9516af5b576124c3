"""Classification: accuracy and macro F1."""

from collections.abc import Sequence

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.evaluate.data import Data
from edgeprune.evaluate.result import Quality, Scores
from edgeprune.runtime.classify import Classifier
from edgeprune.runtime.tokenize import Text
from edgeprune.text.files import Row, text_of
from edgeprune.text.labels import label_number


def classification(bundle: Bundle, data: Data) -> Quality:
    """Accuracy and macro F1, both times 100.

    `data` has rows with `text` and `label` (and `text_pair` where the model takes pairs); a label
    is a number, or a name that the model's id2label has.
    """
    rows = data.rows(["text", "label"])
    logits, truth = classified(bundle, rows, data.place)
    return Quality(
        {"label": truth, "found": logits.argmax(axis=1)},
        _accuracy_and_f1,
        {"texts": len(rows)},
        data.groups(rows),
    )


def classified(bundle: Bundle, rows: Sequence[Row], place: str) -> tuple[np.ndarray, np.ndarray]:
    """The model's logits of each row's text [rows, labels], and the true label's number [rows]."""
    classifier = Classifier(bundle)
    truth = np.array([label_number(row["label"], classifier.labels, place) for row in rows])
    texts: list[Text] = [
        (text_of(row, "text", place), text_of(row, "text_pair", place))
        if row.get("text_pair") is not None
        else text_of(row, "text", place)
        for row in rows
    ]
    return classifier.logits(texts), truth


def _accuracy_and_f1(scores: Scores) -> dict[str, float]:
    truth, found = scores["label"], scores["found"]
    return {
        "accuracy": 100 * float((found == truth).mean()),
        "macro_f1": 100 * macro_f1(truth, found),
    }


def macro_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean F1 of the classes that occur in either list [n] of class numbers, each weighing alike.

    F1 = 2 TP / (2 TP + FP + FN).
    """
    classes = int(max(truth.max(), found.max())) + 1
    hits = np.bincount(truth[truth == found], minlength=classes)
    both = np.bincount(truth, minlength=classes) + np.bincount(found, minlength=classes)
    return float((2 * hits[both > 0] / both[both > 0]).mean())
