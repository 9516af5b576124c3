"""Scores of texts or pairs beside people's: Pearson's and Spearman's correlation."""

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.measure.evaluate.sts import spearman
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.rank import Ranker
from edgeprune.text.pairs import FIELDS
from edgeprune.text.truth import scored


def correlation(bundle: Bundle, data: Data) -> Quality:
    """Spearman's rank correlation and Pearson's correlation of the model's scores with the data's,
    times 100.

    `data` has rows with `text` (and `text_pair`) and `score`.

    Raises:
        UserError: all of the data's or of the model's scores are the same.
    """
    rows = data.rows(["text", "score"], FIELDS)
    documents, truth = scored(rows, (), data.place)
    if len(set(truth)) < 2:
        raise UserError(f"{data.place}: all scores are the same, so that no order can be compared.")
    found = Ranker(bundle).values(documents)
    if len(set(found)) < 2:
        raise UserError(
            f"{bundle.folder} gives all rows of {data.place} the same score, so that no order can "
            "be compared; see whether their texts are empty."
        )
    scores = {"found": found, "score": np.array(truth)}
    return Quality(scores, _values, {"texts": len(rows)}, data.groups(rows))


def _values(scores: Scores) -> dict[str, float]:
    found, truth = scores["found"], scores["score"]
    return {"spearman": 100 * spearman(found, truth), "pearson": 100 * pearson(found, truth)}


def pearson(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation of two lists [n]; NaN where one of them is constant."""
    left, right = left - left.mean(), right - right.mean()
    norm = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / norm) if norm else float("nan")
