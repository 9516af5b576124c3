"""Measures of several labels and of scores, beside scikit-learn and scipy."""

import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score, label_ranking_loss

from edgeprune.measure.evaluate.correlation import _values as correlations
from edgeprune.measure.evaluate.multilabel import _ranking_loss
from edgeprune.measure.evaluate.multilabel import _values as of_labels


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_scikit_learns(seed):
    """With texts of no label and of all, ties, and a label that is nowhere."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((40, 5)) < 0.4).astype(float)
    likely = np.round(rng.random((40, 5)), 1)
    truth[0], truth[1] = 0, 1
    truth[:, 4], likely[:, 4] = 0, 0.2
    found = (likely >= 0.5).astype(float)
    losses = np.array([_ranking_loss(*row) for row in zip(truth, likely, strict=True)])
    mine = of_labels({"true": truth, "found": found, "ranking_loss": losses})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        micro, macro = (
            100 * f1_score(truth, found, average=kind, zero_division=0)
            for kind in ("micro", "macro")
        )
    assert mine["f1_micro"] == pytest.approx(micro)
    assert mine["f1_macro"] == pytest.approx(macro)
    assert mine["ranking_loss"] == pytest.approx(label_ranking_loss(truth, likely))


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_scipys(seed):
    rng = np.random.default_rng(seed)
    found, truth = rng.normal(size=50), rng.integers(0, 5, 50)
    mine = correlations({"found": found, "score": truth})
    assert mine["pearson"] == pytest.approx(100 * scipy.stats.pearsonr(found, truth)[0])
    assert mine["spearman"] == pytest.approx(100 * scipy.stats.spearmanr(found, truth)[0])
