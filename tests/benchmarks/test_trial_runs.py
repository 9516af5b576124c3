"""Runs of the trial: arms that train together are what each would be alone with the package."""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_builds import model_folder, sentence_lines, text_file
from torch import nn
from torch.nn import functional

from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.saliency import SALIENCIES
from edgeprune.compress.prune.settings import PruneSettings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 30


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    from trial import synthetic

    monkeypatch.setattr(synthetic, "DENSE_STEPS", 20)
    monkeypatch.setattr(synthetic, "TESTS", 1000)
    synthetic.make_task.cache_clear()
    yield synthetic
    synthetic.make_task.cache_clear()
    torch.set_default_dtype(torch.float32)


def alone(synthetic: Any, seed: int, condition: str, arm: Any) -> MomentumVariancePruner:
    """One arm as a user would train it: an ordinary network, optimizer and pruner."""
    from trial.design import CONDITIONS, burst_at, bursts

    task, disturbed = synthetic.make_task(seed), CONDITIONS[condition]
    net = copy.deepcopy(task.student)
    settings = PruneSettings(
        pattern="weights", sparsity=0.95, max_layer_sparsity=0.99, updates=40,
        budget=arm.budget, averages=arm.averages, saliency=arm.saliency,
    )  # fmt: skip
    weights = [Prunable(str(i), net[i].weight) for i in (0, 2, 4)]
    pruner = MomentumVariancePruner(weights, settings, STEPS)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    data, noise = (torch.Generator().manual_seed(1000 * seed + i) for i in (1, 2))
    windows = bursts(disturbed, seed, STEPS)
    for step in range(1, STEPS + 1):
        burst = burst_at(step, windows)
        x, y = task.draw(
            disturbed.batch,
            int(disturbed.switch and step > STEPS // 2),
            max(disturbed.label_noise, disturbed.labels if burst else 0),
            data,
        )
        optimizer.param_groups[0]["lr"] = 1e-3 * (disturbed.rate if burst else 1)
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        if burst and burst.noise:
            gradients = [p.grad for p in net.parameters()]
            norm = math.hypot(*(float(g.norm()) for g in gradients))
            size = burst.noise * norm / math.sqrt(sum(g.numel() for g in gradients))
            for g in gradients:
                g += size * torch.randn(g.shape, generator=noise)
        pruner.observe()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        pruner.after_step(optimizer)
    return pruner


@pytest.mark.parametrize("condition", ["random", "noisy", "rate_spike", "switch"])
def test_arms_that_train_together_are_what_each_is_alone(synthetic, monkeypatch, condition):
    """The package's own pruner over an ordinary network gives the same budgets and weights."""
    from trial.design import Arm

    arms = [
        Arm("mv", "adaptive", "fisher"),
        Arm("static_gradnorm", "adaptive", "platon"),
        Arm("cubic", "plain", "grad"),
        Arm("fixed_mom", "adaptive", "momentum"),
    ]
    made: list[MomentumVariancePruner] = []

    class Remembered(MomentumVariancePruner):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(synthetic, "MomentumVariancePruner", Remembered)
    synthetic.run(7, condition, arms, STEPS)
    for arm, together in zip(arms, list(made), strict=True):
        single = alone(synthetic, 7, condition, arm)
        for row, other in zip(together.trajectory, single.trajectory, strict=True):
            for name in ("norm", "trend", "deviation", "beta", "sparsity"):
                assert row[name] == pytest.approx(other[name], rel=1e-6), (arm, row["step"], name)
        for layer, other in zip(together._layers, single._layers, strict=True):
            assert torch.equal(layer.kept, other.kept)
            torch.testing.assert_close(layer.value, other.value.detach(), rtol=1e-6, atol=1e-9)
            for name, buffer in layer.buffers.items():
                torch.testing.assert_close(buffer, other.buffers[name], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("saliency", ["grad", "momentum", "fisher", "platon"])
def test_clipped_averages_take_gradients_held_to_twice_the_mean_norm(synthetic, saliency):
    """The pruner's accumulators are those of gradients that were clipped by hand."""
    from trial.clipped import ClippedAverages

    torch.manual_seed(0)
    weights = [torch.randn(6, 5), torch.randn(4, 6)]
    settings = PruneSettings(
        pattern="weights", sparsity=0.5, saliency=saliency, averages="plain", start=0.9, end=0.95
    )
    prunables = [Prunable(str(i), weight) for i, weight in enumerate(weights)]
    pruner = MomentumVariancePruner(prunables, settings, 100)
    clipped = ClippedAverages(weights)
    kind = SALIENCIES[saliency]
    expected = [{name: torch.zeros_like(w) for name in kind.buffers} for w in weights]
    mean, factors = None, []
    for step in range(20):
        gradients = [torch.randn(w.shape) * (30 if step in (8, 9) else 1) for w in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        mean = norm if mean is None else 0.95 * mean + 0.05 * norm
        factors.append(min(1, 2 * mean / norm))
        pruner.observe(clipped.judged({}))
        for buffers, weight, gradient in zip(expected, weights, gradients, strict=True):
            kind.accumulate(buffers, weight, gradient * factors[-1], 1.0)
        assert pruner.budget.steadiness.recent[-1] == pytest.approx(norm)  # as it is, unclipped
    assert sum(factor < 1 for factor in factors) == 2
    for layer, buffers in zip(pruner._layers, expected, strict=True):
        for name, buffer in buffers.items():
            torch.testing.assert_close(layer.buffers[name], buffer)


def test_all_arms_of_a_seed_repeat_themselves_and_reach_their_sparsity(synthetic):
    from trial.design import BLOCKS

    arms = [arm for block in BLOCKS.values() for arm in block][::7]
    first, again = (synthetic.run(3, "bursts", arms, STEPS) for _ in range(2))
    assert first == again
    for arm, row in zip(arms, first, strict=True):
        assert (row["budget"], row["averages"], row["saliency"]) == (
            arm.budget, arm.averages, arm.saliency,
        )  # fmt: skip
        assert 0 <= row["inside"] <= 1
        assert 0 < row["metric"] < 100


def test_label_noise_and_domains_are_what_they_say(synthetic):
    task = synthetic.make_task(0)
    for share in (0.0, 0.2):
        x, y = task.draw(20000, 0, share, torch.Generator().manual_seed(5))
        wrong = float((task.teacher(x).argmax(1) != y).double().mean())
        assert wrong == pytest.approx(share * 0.9, abs=0.02)
    spreads = [
        task.draw(20000, domain, 0, torch.Generator().manual_seed(5))[0].T.cov()
        for domain in (0, 1)
    ]
    values = [torch.linalg.eigvalsh(spread) for spread in spreads]
    torch.testing.assert_close(values[0], values[1], rtol=0.02, atol=0.02)  # turned, not stretched
    assert float((spreads[0] - spreads[1]).norm()) > 0.5 * float(spreads[0].norm())


def test_a_burst_has_each_arms_own_norm_and_one_direction(synthetic):
    gradients = [torch.randn(2, 80, 90), torch.randn(2, 700)]
    for gradient in gradients:
        gradient[1] *= 3
    before = [gradient.clone() for gradient in gradients]
    synthetic.add_burst(gradients, 25.0, torch.Generator().manual_seed(0))
    added = [after - was for after, was in zip(gradients, before, strict=True)]
    sizes = synthetic.norms(added) / synthetic.norms(before)
    torch.testing.assert_close(sizes, torch.tensor([25.0, 25.0]), rtol=0.05, atol=0)
    ratio = float(synthetic.norms(before)[1] / synthetic.norms(before)[0])
    for each in added:
        torch.testing.assert_close(each[1], each[0] * ratio)


@pytest.mark.parametrize("averages", ["clip", "adaptive"])
def test_an_encoder_is_pruned_and_measured(averages, tmp_path, monkeypatch):
    """Tier 1 on a tiny model: a correlation that repeats itself, whatever ran before."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from trial import minilm
    from trial.design import Arm

    for name in ("text", "pairs"):
        (tmp_path / name).mkdir()
    text_file(tmp_path / minilm.TEXT, 200)
    pairs = [
        {"text": a, "text_pair": b, "score": i % 6}
        for i, (a, b) in enumerate(itertools.pairwise(sentence_lines(40, seed=3)))
    ]
    (tmp_path / minilm.PAIRS).write_text("\n".join(map(json.dumps, pairs)))
    monkeypatch.setattr(minilm, "STEPS", 12)
    folder = model_folder(tmp_path / "model")
    arm = Arm("mv", averages, "platon")
    row = minilm.prune_and_measure(arm, "random", 0, tmp_path, folder)
    assert -100 <= row["metric"] <= 100
    minilm.prune_and_measure(Arm("cubic", "adaptive", "fisher"), "clean", 0, tmp_path, folder)
    assert minilm.prune_and_measure(arm, "random", 0, tmp_path, folder) == row
    answers = minilm.of_seed(0, tmp_path, folder)[1].module.forward.answers
    held_out = len(minilm.of_seed(0, tmp_path, folder)[0].held_out_batches())
    assert len(answers) == 12 + held_out  # one for each step's text, however many runs
