"""Tier 0: a student learns a random teacher's classes, then is pruned to 5 % of its weights."""

import copy
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.settings import PruneSettings
from trial.design import DISTURBANCES, Cell, Condition, in_window
from trial.outcomes import stability

INPUTS, WIDTH, CLASSES = 64, 128, 10
DENSE_STEPS, STEPS, WINDOW = 1500, 500, 20
RATE, CLIP_NORM = 1e-3, 5.0
PROBE_EVERY = 5
_CORE = {"pattern": "weights", "sparsity": 0.95, "max_layer_sparsity": 0.99, "updates": 40}


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
    spectrum = torch.arange(1, INPUTS + 1).float().pow(-0.5)
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


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of classes that a network finds, in per cent."""
    with torch.no_grad():
        return 100 * float((net(x).argmax(1) == y).double().mean())


def add_burst(gradients: Sequence[Tensor], ratio: float, generator: torch.Generator) -> None:
    """Add Gaussian noise to gradients, of `ratio` times their common norm."""
    norm = math.hypot(*(float(torch.linalg.vector_norm(g)) for g in gradients))
    scale = ratio * norm / math.sqrt(sum(g.numel() for g in gradients))
    for gradient in gradients:
        gradient.add_(torch.randn(gradient.shape, generator=generator), alpha=scale)


def run(cell: Cell, steps: int = STEPS) -> dict[str, Any]:
    """Prune and fine-tune a copy of the seed's student; accuracy on the last domain, in per cent.

    Everything random depends on the seed and the condition alone, so that runs are paired.
    """
    task, condition = make_task(cell.seed), DISTURBANCES[cell.condition]
    net = copy.deepcopy(task.student)
    weights = {str(i): net[i].weight for i in (0, 2, 4)}
    settings = PruneSettings(
        **{**_CORE, **cell.settings, "budget": cell.budget, "saliency": cell.saliency}
    )
    prunables = [Prunable(name, weight) for name, weight in weights.items()]
    pruner = MomentumVariancePruner(prunables, settings, steps)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    data, noise, tests = (
        torch.Generator().manual_seed(1000 * cell.seed + offset) for offset in (1, 2, 3)
    )
    last = int(condition.switch)
    probes = [task.draw(512, domain, 0.0, tests) for domain in range(last + 1)]
    x_probe, y_probe = (torch.cat(parts) for parts in zip(*probes, strict=True))
    x_test, y_test = task.draw(8000, last, 0.0, tests)
    curve: dict[int, float] = {}
    started = time.monotonic()
    for step in range(1, steps + 1):
        disturbed = in_window(step, steps, WINDOW)
        domain = int(condition.switch and step > steps // 2)
        x, y = task.draw(condition.batch, domain, _label_noise(condition, disturbed), data)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (condition.rate if disturbed else 1.0)
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        if disturbed and condition.burst_noise:
            add_burst([p.grad for p in net.parameters()], condition.burst_noise, noise)
        pruner.observe()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        pruner.after_step(optimizer)
        if step % PROBE_EVERY == 0:
            with torch.no_grad():
                curve[step] = float(functional.cross_entropy(net(x_probe), y_probe))
    pruner.finish()
    return {
        "metric": accuracy(net, x_test, y_test),
        "dense": accuracy(task.student, x_test, y_test),
        "sparsity": pruner.sparsity,
        **stability(pruner.trajectory, curve, steps, WINDOW),
        "seconds": round(time.monotonic() - started, 2),
    }


def _label_noise(condition: Condition, disturbed: bool) -> float:
    return max(condition.label_noise, condition.burst_labels if disturbed else 0.0)
