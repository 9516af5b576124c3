"""A newborn weight under Adam against a fresh Adam of its own."""

import copy

import pytest
import torch
from torch import nn

from edgeprune.compress.prune.newborn import StepCorrection, forget, seed


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("steps", [40, 5000])
def test_adam_steps_as_if_the_counter_had_restarted(kind, steps):
    torch.manual_seed(0)
    old = nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = kind([old], lr=1e-2, weight_decay=0.1 if kind is torch.optim.AdamW else 0.0)
    for _ in range(40):
        old.grad = torch.randn(5, dtype=torch.float64)
        optimizer.step()
    optimizer.state[old]["step"].fill_(steps)  # Adam knows its age by this alone
    born = torch.tensor([False, True, False, True, False])
    with torch.no_grad():
        old[born] = 0
    forget(optimizer, old, born)
    fresh = nn.Parameter(old.detach()[born].clone())
    other = kind([fresh], lr=1e-2, weight_decay=0.1 if kind is torch.optim.AdamW else 0.0)
    untouched = nn.Parameter(old.detach().clone())
    plain = kind([untouched], lr=1e-2, weight_decay=0.1 if kind is torch.optim.AdamW else 0.0)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    correction = StepCorrection(old, torch.tensor([1, 3]), torch.zeros(2, dtype=torch.long))
    for step in range(30):
        gradient = torch.randn(5, dtype=torch.float64)
        old.grad, fresh.grad, untouched.grad = gradient, gradient[born], gradient
        correction.remember()
        optimizer.step()
        with torch.no_grad():
            correction.apply(optimizer)
        other.step()
        plain.step()
        torch.testing.assert_close(old[born], fresh, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(old[~born], untouched[~born])
        if step == 0:  # without the correction, the old counter makes the first step wrong
            stretch = (untouched[born] / fresh).abs()
            assert bool(((stretch > 3) if steps == 5000 else (stretch < 0.7)).all())


def test_sgd_forgets_its_momentum_and_needs_no_correction():
    value = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([value], lr=0.1, momentum=0.9)
    value.grad = torch.ones(3)
    optimizer.step()
    born = torch.tensor([True, False, False])
    forget(optimizer, value, born)
    assert optimizer.state[value]["momentum_buffer"].tolist() == [0, 1, 1]
    correction = StepCorrection(value, torch.tensor([0]), torch.zeros(1, dtype=torch.long))
    correction.remember()
    optimizer.step()
    after = value.detach().clone()
    correction.apply(optimizer)
    assert torch.equal(value.detach(), after)


def test_newborn_scores_start_at_the_median():
    buffer = torch.tensor([1.0, 9.0, 5.0, 100.0, 0.0])
    active = torch.tensor([True, True, True, False, False])
    seed({"mean": buffer}, active, torch.tensor([False, False, False, True, False]))
    assert buffer.tolist() == [1, 9, 5, 5, 0]
