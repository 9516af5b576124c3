"""Calibration against scikit-learn and scipy."""

from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
from choice_items import log_likelihood, random_items
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import (
    SIZE,
    WORDS,
    classifier_folder,
    decoder_folder,
    ids_of,
    table,
    write_jsonl,
)

from edgeprune.measure.evaluate.calibration import expected_calibration_error
from edgeprune.measure.evaluate.measures import evaluate

metrics = pytest.importorskip("sklearn.metrics")


def test_the_error_of_a_table_by_hand() -> None:
    """Ten rows at 0.9 of which 7 are right, ten at 0.5 of which 6 are: (0.2 + 0.1) / 2."""
    confidence = np.repeat([0.9, 0.5], 10)
    right = np.repeat([1.0, 0.0, 1.0, 0.0], [7, 3, 6, 4])
    assert expected_calibration_error(confidence, right) == pytest.approx(0.15)


def test_bins_are_closed_above() -> None:
    """At 5/15 and just above are two bins, whose gaps of unlike signs do not cancel."""
    edge = 5 / 15
    apart = expected_calibration_error(np.array([edge, edge + 1e-6]), np.array([1.0, 0.0]))
    assert apart == pytest.approx((1 - edge + edge) / 2, abs=1e-5)
    together = expected_calibration_error(np.array([edge - 1e-6, edge]), np.array([1.0, 0.0]))
    assert together == pytest.approx(abs(1 - 2 * edge) / 2, abs=1e-5)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_the_error_from_scipys_bins(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence, right = random.random(rows), random.integers(0, 2, rows).astype(float)
    binned = scipy.stats.binned_statistic(
        confidence, [confidence, right], statistic="mean", bins=15, range=(0, 1)
    )
    counts = np.bincount(binned.binnumber - 1, minlength=15)
    gaps = np.abs(np.nan_to_num(binned.statistic[0] - binned.statistic[1]))
    expected = (counts * gaps).sum() / rows
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def check(values: dict[str, float], logits: np.ndarray, truth: list[int]) -> None:
    logs = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
    probabilities = np.exp(logs)
    assert values["nll"] == pytest.approx(-logs[np.arange(len(truth)), truth].mean(), rel=1e-4)
    one_hot = np.eye(logits.shape[1])[truth]
    # scikit-learn's mean squared error averages over classes too, where Brier's score sums.
    brier = metrics.mean_squared_error(one_hot, probabilities) * logits.shape[1]
    assert values["brier"] == pytest.approx(brier, rel=1e-4)
    right = (probabilities.argmax(axis=1) == truth).astype(float)
    error = expected_calibration_error(probabilities.max(axis=1), right)
    assert values["ece"] == pytest.approx(100 * error, rel=1e-3)


def test_a_classifiers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 2)) for _ in range(30)]
    truth = random.integers(0, 3, 30).tolist()
    rows = [{"text": text, "label": label} for text, label in zip(texts, truth, strict=True)]
    logits = [table()[ids_of(text)].sum(axis=0) @ table(SIZE, 3, seed=5) for text in texts]
    result = evaluate(
        classifier_folder(tmp_path / "m"), "calibration", write_jsonl(tmp_path / "r.jsonl", rows)
    )
    assert result.conditions == {"rows": 30, "bins": 15}
    check(result.values, np.array(logits), truth)


def test_a_decoders_choices(tmp_path: Path) -> None:
    rows = [row for row in random_items(60) if len(row["choices"]) == 3]
    logs = [[log_likelihood(row["query"], choice) for choice in row["choices"]] for row in rows]
    values = evaluate(
        decoder_folder(tmp_path / "m"), "calibration", write_jsonl(tmp_path / "r.jsonl", rows)
    ).values
    check(values, np.array(logs), [row["gold"] for row in rows])
