"""Tier 0: a student learns a random teacher's classes, then is pruned to 5 % of its weights.

All arms of a seed and condition train at once, as one network with a dimension more: the same data,
the same noise, each arm's own weights. What is pruned when is decided by the package itself, by a
pruner for each arm over its part of the weights.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.settings import PruneSettings
from trial.clipped import ClippedAverages
from trial.design import CONDITIONS, PRUNED_FROM, PRUNED_TO, Arm, burst_at, bursts
from trial.outcomes import stability

INPUTS, WIDTH, CLASSES = 64, 128, 10
DENSE_STEPS, STEPS = 1500, 500
RATE, CLIP_NORM = 1e-3, 5.0
TESTS = 8000
_CORE = {
    "pattern": "weights", "sparsity": 0.95, "max_layer_sparsity": 0.99, "updates": 40,
    "start": PRUNED_FROM, "end": PRUNED_TO,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A seed's teacher and its trained student; inputs are Gaussian with a falling spectrum.

    maps: what makes Gaussian noise inputs, in the first domain and in the second, which is turned.
    """

    teacher: nn.Module
    student: nn.Sequential
    maps: tuple[Tensor, Tensor]

    def draw(
        self, count: int, domain: int, noise: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Inputs [count, INPUTS] and classes [count], of which a share is drawn anew."""
        x = torch.randn(count, INPUTS, generator=generator) @ self.maps[domain]
        with torch.no_grad():
            y = self.teacher(x).argmax(1)
        other = torch.randint(CLASSES, (count,), generator=generator)
        return x, torch.where(torch.rand(count, generator=generator) < noise, other, y)


@functools.lru_cache(maxsize=2)
def make_task(seed: int) -> Task:
    """The teacher of a seed, and a student that was trained on its classes."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    teacher = nn.Sequential(nn.Linear(INPUTS, 48), nn.Tanh(), nn.Linear(48, CLASSES))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.randn(48, INPUTS, generator=generator) / 3)
        teacher[2].weight.copy_(torch.randn(CLASSES, 48, generator=generator))
    spectrum = torch.arange(1.0, INPUTS + 1).pow(-0.5)
    spectrum *= math.sqrt(INPUTS / float(spectrum.square().sum()))
    turn = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=generator)).Q
    student = nn.Sequential(
        nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, CLASSES),
    )  # fmt: skip
    task = Task(teacher, student, (torch.diag(spectrum), spectrum[:, None] * turn))
    optimizer = torch.optim.Adam(student.parameters(), lr=RATE, fused=True)
    for _ in range(DENSE_STEPS):
        x, y = task.draw(128, 0, 0.0, generator)
        optimizer.zero_grad()
        functional.cross_entropy(student(x), y).backward()
        optimizer.step()
    return task


class Stacked:
    """As many copies of a student as there are arms, in one set of parameters [arms, ...]."""

    def __init__(self, student: nn.Sequential, arms: int) -> None:
        self.arms = arms
        self.parameters = [
            parameter.detach().expand(arms, *parameter.shape).clone().requires_grad_()
            for parameter in student.parameters()
        ]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)  # kept: arms hold views of it

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [arms, samples, CLASSES] of inputs [samples, INPUTS]."""
        h = x.expand(self.arms, *x.shape)
        layers = list(zip(self.parameters[::2], self.parameters[1::2], strict=True))
        for place, (weight, bias) in enumerate(layers):
            h = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
            if place < len(layers) - 1:
                h = h.relu()
        return h

    def weights(self, arm: int) -> list[Tensor]:
        """One arm's weights, and their gradients: views."""
        found = []
        for parameter in self.parameters[::2]:
            weight = parameter.detach()[arm]
            weight.grad = parameter.grad[arm]
            found.append(weight)
        return found

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy, the mean over samples and the sum over arms."""
        logits = self(x).reshape(-1, CLASSES)
        return functional.cross_entropy(logits, y.repeat(self.arms), reduction="sum") / len(y)


def add_burst(gradients: Sequence[Tensor], ratio: float, generator: torch.Generator) -> None:
    """Add Gaussian noise to gradients [arms, ...], for each arm of `ratio` times their common norm.

    The noise is the same for all arms but for its size.
    """
    scale = ratio * norms(gradients) / math.sqrt(sum(g[0].numel() for g in gradients))
    for gradient in gradients:
        noise = torch.randn(gradient.shape[1:], generator=generator, dtype=gradient.dtype)
        gradient.add_(noise * _spread(scale, gradient))


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """Common norm [arms] of gradients [arms, ...]."""
    each = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
    return torch.linalg.vector_norm(torch.stack(each), dim=0)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Values [arms] over the dimensions of `like` [arms, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _parts(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples by as many as the processor's cache holds the activations of, for all arms."""
    return zip(x.split(250), y.split(250), strict=True)


def run(seed: int, condition: str, arms: Sequence[Arm], steps: int = STEPS) -> list[dict[str, Any]]:
    """Prune and fine-tune copies of the seed's student; accuracy on the last domain, in per cent.

    Everything random depends on the seed and the condition alone, so that arms are paired.

    Returns:
        For each arm its accuracy ("metric") and what outcomes.stability says.
    """
    task, disturbed_by = make_task(seed), CONDITIONS[condition]
    windows = bursts(disturbed_by, seed, steps)
    net = Stacked(task.student, len(arms))
    gradients = [parameter.grad for parameter in net.parameters]
    pruners, clips = [], []
    for place, arm in enumerate(arms):
        weights = net.weights(place)
        prunables = [Prunable(str(number), weight) for number, weight in enumerate(weights)]
        settings = PruneSettings(**_CORE, **arm.settings)
        pruners.append(MomentumVariancePruner(prunables, settings, steps))
        clips.append(ClippedAverages(weights) if arm.clipped else None)
    optimizer = torch.optim.Adam(net.parameters, lr=RATE, fused=True)
    data, noise, tests = (torch.Generator().manual_seed(1000 * seed + i) for i in (1, 2, 3))
    last = int(disturbed_by.switch)
    for step in range(1, steps + 1):
        burst = burst_at(step, windows)
        domain = int(disturbed_by.switch and step > steps // 2)
        labels = max(disturbed_by.label_noise, disturbed_by.labels if burst else 0.0)
        x, y = task.draw(disturbed_by.batch, domain, labels, data)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (disturbed_by.rate if burst else 1.0)
        optimizer.zero_grad(set_to_none=False)
        net.loss(x, y).backward()
        with torch.no_grad():
            if burst and burst.noise:
                add_burst(gradients, burst.noise, noise)
            for pruner, clip in zip(pruners, clips, strict=True):
                pruner.observe(clip.judged({}) if clip else None)
            factors = (CLIP_NORM / (norms(gradients) + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(_spread(factors, gradient))
        optimizer.step()
        for pruner in pruners:
            pruner.after_step()
    x, y = task.draw(TESTS, last, 0.0, tests)
    with torch.no_grad():
        hits = [(net(part).argmax(2) == truth) for part, truth in _parts(x, y)]
    found = 100 * torch.cat(hits, 1).double().mean(1)
    rows = []
    for arm, pruner, accuracy in zip(arms, pruners, found.tolist(), strict=True):
        pruner.finish()
        rows.append({**asdict(arm), "metric": accuracy, **stability(pruner.trajectory, windows)})
    return rows
