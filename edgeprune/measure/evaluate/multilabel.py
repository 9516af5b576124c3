"""Classification with several labels a text: micro and macro F1, and the ranking loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.measure.evaluate.classes import Answers, Classes
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.multilabel import THRESHOLD, MultiLabelClassifier
from edgeprune.text.files import Row
from edgeprune.text.labels import label_names
from edgeprune.text.pairs import FIELDS
from edgeprune.text.truth import multi_labelled


def multilabel(bundle: Bundle, data: Data) -> Quality:
    """Micro and macro F1 of the labels of at least half a probability, times 100, and the ranking
    loss, as scikit-learn defines them; and F1, precision and recall of every label.

    F1 = 2 TP / (2 TP + FP + FN), of all labels together or the mean of each label's, 0 for one that
    is neither true nor found of any text. ranking_loss: the mean share of pairs of a true and an
    untrue label of a text of which the true one is not the likelier (0 is best).

    `data` has rows with `text` (and `text_pair`) and `labels`.
    """
    rows = data.rows(["text", "labels"], FIELDS)
    model = MultiLabelClassifier(bundle)
    documents, vectors = multi_labelled(rows, model.labels, data.place)
    truth, likely = np.array(vectors), model.values(documents)
    scores = {
        "true": truth,
        "found": (likely >= THRESHOLD).astype(float),
        "ranking_loss": np.array([_ranking_loss(*row) for row in zip(truth, likely, strict=True)]),
    }
    by_label = np.stack([truth * scores["found"], scores["found"], truth]).astype(np.int64)
    answers = Answers([row["text"] for row in rows], truth, scores["found"])
    return Quality(
        scores,
        _values,
        {"texts": len(rows)},
        data.groups(rows),
        classes=Classes(model.labels, lambda chosen: by_label[:, chosen].sum(axis=1), answers),
    )


def check_rows(rows: Sequence[Row], config: Mapping[str, Any], place: str) -> None:
    """Refuse labels that the model of this configuration does not have.

    Raises:
        UserError: naming the label.
    """
    multi_labelled(rows, label_names(config), place)


def _values(scores: Scores) -> dict[str, float]:
    true, found = scores["true"], scores["found"]
    hits, both = (true * found).sum(axis=0), true.sum(axis=0) + found.sum(axis=0)
    return {
        "f1_micro": 200 * float(hits.sum() / max(both.sum(), 1)),
        "f1_macro": 200 * float((hits / np.maximum(both, 1)).mean()),
        "ranking_loss": float(scores["ranking_loss"].mean()),
    }


def _ranking_loss(truth: np.ndarray, likely: np.ndarray) -> float:
    """The share of one text; 0 where it has all labels or none."""
    yes, no = likely[truth == 1], likely[truth == 0]
    return float((yes[:, None] <= no[None]).mean()) if len(yes) and len(no) else 0.0
