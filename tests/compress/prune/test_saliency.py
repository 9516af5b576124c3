"""Every score against its formula written out in numpy over a short history."""

import numpy as np
import pytest
import torch

from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.saliency import SALIENCIES
from edgeprune.compress.prune.settings import PruneSettings

STEPS = 7


def history() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(STEPS, 4, 5)), rng.normal(size=(STEPS, 4, 5))


def average(values: np.ndarray, decay: float) -> np.ndarray:
    """Exponential average from zero as an explicit weighted sum."""
    weights = (1 - decay) * decay ** np.arange(len(values) - 1, -1, -1.0)
    return np.tensordot(weights, values, axes=1)


def closed_form(name: str, w: np.ndarray, g: np.ndarray) -> np.ndarray:
    if name == "magnitude":
        return np.abs(w[-1])
    if name == "grad":
        return np.abs(w[-1] * g[-1])
    if name == "momentum":
        return np.abs(w[-1] * average(g, 0.9))
    if name == "fisher":
        return w[-1] ** 2 * average(g**2, 0.99)
    if name == "adamwprune":
        return np.abs(w[-1]) * average(g**2, 0.99) ** 0.25
    if name == "movement":
        return -(w * g).sum(0)
    effect = np.abs(w * g)
    means = np.stack([average(effect[: t + 1], 0.85) for t in range(len(w))])
    return means[-1] * average(np.abs(effect - means), 0.95)


@pytest.mark.parametrize("name", sorted(SALIENCIES))
def test_score_is_its_closed_form(name):
    weights, gradients = history()
    saliency = SALIENCIES[name]
    buffers = {key: torch.zeros(4, 5, dtype=torch.float64) for key in saliency.buffers}
    for w, g in zip(weights, gradients, strict=True):
        saliency.accumulate(buffers, torch.from_numpy(w), torch.from_numpy(g))
    score = saliency.score(buffers, torch.from_numpy(weights[-1])).numpy()
    np.testing.assert_allclose(score, closed_form(name, weights, gradients), rtol=1e-10)


def test_accumulators_hold_a_spike_to_twice_the_trend():
    """A burst of 100 times the norm enters the Fisher average as twice the trend's norm."""
    _, gradients = history()
    gradients[4] *= 100
    value = torch.nn.Parameter(torch.ones(4, 5, dtype=torch.float64))
    settings = PruneSettings(pattern="weights", saliency="fisher")
    pruner = MomentumVariancePruner([Prunable("w", value)], settings, total_steps=100)
    mean, clipped = None, []
    for g in gradients:
        norm = np.linalg.norm(g)
        mean = norm if mean is None else mean + 0.05 * (norm - mean)
        clipped.append(g * min(1, 2 * mean / norm))
        value.grad = torch.from_numpy(g.copy())
        pruner.observe()
    square = pruner.state_dict()["tensors"]["w:buffer.square"].numpy()
    np.testing.assert_allclose(square, average(np.stack(clipped) ** 2, 0.99), rtol=1e-9)
    assert np.linalg.norm(clipped[4]) < np.linalg.norm(gradients[4]) / 3


def test_only_the_needed_accumulators_exist():
    for name, saliency in SALIENCIES.items():
        value = torch.nn.Parameter(torch.ones(3, 3))
        settings = PruneSettings(pattern="weights", saliency=name)
        pruner = MomentumVariancePruner([Prunable("w", value)], settings, total_steps=9)
        held = {key for key in pruner.state_dict()["tensors"] if "buffer" in key}
        assert held == {f"w:buffer.{key}" for key in saliency.buffers}


def test_half_precision_is_averaged_in_float32():
    value = torch.nn.Parameter(torch.ones(3, 3, dtype=torch.bfloat16))
    settings = PruneSettings(pattern="weights", saliency="fisher")
    pruner = MomentumVariancePruner([Prunable("w", value)], settings, total_steps=9)
    value.grad = torch.full((3, 3), 0.125, dtype=torch.bfloat16)
    pruner.observe()
    square = pruner.state_dict()["tensors"]["w:buffer.square"]
    assert square.dtype == torch.float32
    torch.testing.assert_close(square, torch.full((3, 3), 0.01 * 0.125**2))
