"""Classification: accuracy and macro F1."""

from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.evaluate.result import Quality
from edgeprune.runtime.classify import Classifier
from edgeprune.runtime.tokenize import Text
from edgeprune.text.files import read_rows, text_of


def classification(bundle: Bundle, data: Path, limit: int | None = None) -> Quality:
    """Accuracy and macro F1, both times 100.

    `data` has rows with `text` and `label` (and `text_pair` where the model takes pairs); a label
    is a number, or a name that the model's id2label has.
    """
    rows = read_rows(data, ["text", "label"], limit)
    texts: list[Text] = [
        (text_of(row, "text", data), text_of(row, "text_pair", data))
        if row.get("text_pair") is not None
        else text_of(row, "text", data)
        for row in rows
    ]
    classifier = Classifier(bundle)
    truth = np.array([_label(row["label"], classifier.labels, data) for row in rows])
    found = classifier.logits(texts).argmax(axis=1)
    values = {
        "accuracy": 100 * float((found == truth).mean()),
        "macro_f1": 100 * macro_f1(truth, found),
    }
    return Quality(values, {"texts": len(rows)})


def macro_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean F1 of the classes that occur in either list [n] of class numbers, each weighing alike.

    F1 = 2 TP / (2 TP + FP + FN).
    """
    scores = []
    for label in np.union1d(truth, found):
        hits = int(((truth == label) & (found == label)).sum())
        scores.append(2 * hits / int((truth == label).sum() + (found == label).sum()))
    return float(np.mean(scores))


def _label(value: Any, labels: list[str], data: Path) -> int:
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    if isinstance(value, str) and value.strip().isdecimal():  # as CSV has it
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels):
        return value
    raise UserError(
        f"{data}: label {value!r} is none of the model's: {', '.join(labels)}, "
        f"or 0 to {len(labels) - 1}."
    )
