"""Objectives of several labels and of one logit, against torch's own losses and closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.compress.objectives.multilabel import MultiLabelObjective
from edgeprune.compress.objectives.regression import RegressionObjective
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.text.batches import Batch

MINE = torch.tensor([[0.3, -4.0, 9.0], [2.0, 0.0, -1.0]])
ITS = torch.tensor([[1.3, -2.0, 7.5], [-2.0, 0.4, -1.0]])
NONE = LossWeights(hidden_weight=0, logits_weight=0)


def output(logits: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(logits=logits)


def batch(labels: np.ndarray) -> Batch:
    ids = np.ones((len(labels), 4), np.int64)
    return Batch(ids, ids, labels)


def test_several_labels_are_a_divergence_of_yes_and_no():
    objective = MultiLabelObjective([0])
    each = kl_divergence(Bernoulli(logits=ITS), Bernoulli(logits=MINE))
    torch.testing.assert_close(objective.distance(MINE, ITS), each.sum())
    mean = objective.distance_from(output(ITS), batch(np.zeros((2, 3))))(output(MINE))
    assert mean == pytest.approx(float(each.sum(1).mean()), rel=1e-5)
    hot = kl_divergence(Bernoulli(logits=ITS / 2), Bernoulli(logits=MINE / 2)).sum(1).mean()
    torch.testing.assert_close(objective.apart(MINE, ITS, 2.0), 4 * hot)
    truth = np.array([[1.0, 0, 1], [0, 0, 1]])
    loss = objective.loss(
        output(MINE), output(ITS), batch(truth), NONE.model_copy(update={"label_weight": 3.0})
    )
    own = functional.binary_cross_entropy_with_logits(MINE, torch.tensor(truth).float())
    torch.testing.assert_close(loss, 3 * own)


@pytest.mark.parametrize("squared", [True, False])
def test_one_logit_is_a_squared_difference(squared):
    objective = RegressionObjective([0], squared)
    mine, its = MINE[:, :1], ITS[:, :1]
    assert float(objective.distance(mine, its)) == pytest.approx((1.0 + 16.0) / 2)
    mean = objective.distance_from(output(its), batch(np.zeros(2)))(output(mine))
    assert mean == pytest.approx(17 / 4)
    scores = np.array([0.25, 1.0])
    loss = objective.loss(
        output(mine), output(its), batch(scores), NONE.model_copy(update={"label_weight": 2.0})
    )
    found, wanted = mine[:, 0], torch.tensor(scores).float()
    own = (
        functional.mse_loss(found, wanted)
        if squared
        else functional.binary_cross_entropy(found.sigmoid(), wanted)
    )
    torch.testing.assert_close(loss, 2 * own)


def test_scores_beyond_shares_need_a_regression():
    scores = torch.tensor([0.5, 4.0])
    with pytest.raises(UserError, match="not all between 0 and 1"):
        RegressionObjective([0]).own(MINE[:, :1], scores)
    RegressionObjective([0], True).own(MINE[:, :1], scores)


@pytest.mark.parametrize(
    ("objective", "curvature"),
    [
        (MultiLabelObjective([0]), MINE.sigmoid() * (1 - MINE.sigmoid())),
        (RegressionObjective([0]), torch.ones_like(MINE)),
    ],
)
def test_the_sampled_gradient_squared_is_the_curvature_of_the_distance(objective, curvature):
    answer = MINE.clone().requires_grad_()
    generator, total, draws = torch.Generator().manual_seed(0), torch.zeros_like(MINE), 4000
    for _ in range(draws):
        (gradient,) = torch.autograd.grad(objective.sampled_loss(answer, generator), answer)
        total += gradient.square() / draws
    torch.testing.assert_close(total, curvature, rtol=0.1, atol=0.01)
    hessian = torch.autograd.functional.hessian(lambda x: objective.distance(x, MINE), MINE)
    diagonal = hessian.reshape(6, 6).diagonal().reshape(2, 3)
    torch.testing.assert_close(diagonal, curvature, rtol=1e-3, atol=1e-5)
