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
    score = scored(name, weights, gradients, [1.0] * len(weights))
    np.testing.assert_allclose(score, closed_form(name, weights, gradients), rtol=1e-10)


def scored(name, weights, gradients, steps):
    saliency = SALIENCIES[name]
    buffers = {key: torch.zeros(4, 5, dtype=torch.float64) for key in saliency.buffers}
    for w, g, step in zip(weights, gradients, steps, strict=True):
        saliency.accumulate(buffers, torch.from_numpy(w), torch.from_numpy(g), step)
    return saliency.score(buffers, torch.from_numpy(weights[-1])).numpy()


@pytest.mark.parametrize("name", sorted(SALIENCIES))
def test_a_step_of_no_weight_is_as_if_it_had_not_been(name):
    weights, gradients = history()
    without = scored(name, weights[[0, 1, 3, 4]], gradients[[0, 1, 3, 4]], [1.0] * 4)
    steps = [1.0, 1.0, 0.0, 1.0, 1.0]
    np.testing.assert_allclose(scored(name, weights[:5], gradients[:5], steps), without, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "key", "share", "value"),
    [
        ("grad", "effect", 1.0, lambda w, g: np.abs(w * g)),
        ("momentum", "mean", 0.1, lambda w, g: g),
        ("fisher", "square", 0.01, lambda w, g: g**2),
        ("platon", "mean", 0.15, lambda w, g: np.abs(w * g)),
    ],
)
def test_an_average_takes_its_share_times_the_steps_weight(name, key, share, value):
    weights, gradients = history()
    buffers = {each: torch.zeros(4, 5, dtype=torch.float64) for each in SALIENCIES[name].buffers}
    expected = np.zeros((4, 5))
    for step, w, g in zip((0.3, 1.0, 0.5), weights, gradients, strict=False):
        SALIENCIES[name].accumulate(buffers, torch.from_numpy(w), torch.from_numpy(g), step)
        expected += share * step * (value(w, g) - expected)
    np.testing.assert_allclose(buffers[key].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("averages", ["adaptive", "layered", "plain"])
def test_a_burst_weighs_by_its_distance_from_the_trend(averages):
    """Two layers, of which one alone bursts: by the norm of both, or each by its own."""
    _, gradients = history()
    layers = [gradients, gradients[::-1].copy()]
    layers[0][4] *= 100
    values = [torch.nn.Parameter(torch.ones(4, 5, dtype=torch.float64)) for _ in layers]
    settings = PruneSettings(pattern="weights", saliency="fisher", averages=averages)
    prunables = [Prunable(str(n), value) for n, value in enumerate(values)]
    pruner = MomentumVariancePruner(prunables, settings, total_steps=100)
    own = [[np.linalg.norm(g) for g in each] for each in layers]
    whole = np.hypot(*own)
    for step in range(len(gradients)):
        for value, each in zip(values, layers, strict=True):
            value.grad = torch.from_numpy(each[step].copy())
        pruner.observe()
    for name, each, norms in zip("01", layers, own, strict=True):
        used = {"adaptive": whole, "layered": norms, "plain": np.ones(len(norms))}[averages]
        expected = np.zeros((4, 5))
        for step, (g, norm) in enumerate(zip(each, used, strict=True)):
            apart = norm / np.median(used[:step]) - 1 if step else 0.0
            expected += 0.01 / (1 + apart**4) * (g**2 - expected)
        square = pruner.state_dict()["tensors"][f"{name}:buffer.square"].numpy()
        np.testing.assert_allclose(square, expected, rtol=1e-9)
