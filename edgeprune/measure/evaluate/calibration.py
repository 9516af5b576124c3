"""Calibration: whether a model is as sure as it is right."""

import numpy as np

from edgeprune.measure.evaluate.choice import read_items, score
from edgeprune.measure.evaluate.classification import classified
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.logits import log_softmax
from edgeprune.text.pairs import FIELDS

BINS = 15


def calibration(bundle: Bundle, data: Data) -> Quality:
    """Expected calibration error (times 100), Brier score and negative log-likelihood (nats).

    ece: the mean distance of confidence (the largest probability) and accuracy in 15 bins of
    confidence of equal width, weighted by their rows (Guo et al., 2017). brier: the mean squared
    distance of the probabilities from the truth, summed over classes, 0 to 2. nll: the mean -log
    of the true class's probability.

    A classifier reads what `classification` reads. A decoder reads what `choice` reads; its
    probabilities are the softmax of the choices' log-likelihoods, not divided by length.
    """
    if TASKS[bundle.task].generates:
        rows = data.rows(["query", "choices", "gold"])
        items = read_items(rows, data.place)
        logs = score(Generator(bundle), items)
        scored = [(log, item.gold) for log, item in zip(logs, items, strict=True)]
    else:
        rows = data.rows(["text", "label"], FIELDS)
        logits, truth = classified(bundle, rows, data.place)
        scored = list(zip(logits, truth, strict=True))
    table = np.array([_row(logits, int(gold)) for logits, gold in scored])
    scores = dict(zip(("confidence", "right", "brier", "nll"), table.T, strict=True))
    conditions = {"rows": len(rows), "bins": BINS}
    return Quality(scores, _calibration, conditions, data.groups(rows))


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """ECE, 0 to 1, of confidences [n] and whether each was right [n]; bins are (low, high]."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    # In a bin: rows x |accuracy - confidence| = |sum of right - sum of confidence|.
    gaps = np.bincount(bins, right, BINS) - np.bincount(bins, confidence, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _row(logits: np.ndarray, gold: int) -> tuple[float, float, float, float]:
    """Confidence, whether it is right, Brier score and nats of one row's logits [classes]."""
    logs = log_softmax(logits)
    probabilities = np.exp(logs)
    truth = np.arange(len(logs)) == gold
    found = int(probabilities.argmax())
    brier = float(((probabilities - truth) ** 2).sum())
    return float(probabilities[found]), float(found == gold), brier, -float(logs[gold])


def _calibration(scores: Scores) -> dict[str, float]:
    return {
        "ece": 100 * expected_calibration_error(scores["confidence"], scores["right"]),
        "brier": float(scores["brier"].mean()),
        "nll": float(scores["nll"].mean()),
    }
