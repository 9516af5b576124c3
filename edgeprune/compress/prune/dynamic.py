"""Momentum-variance pruning while distilling from the original, as the prune stage.

The saliencies read gradients, and a student that still equals its original has none from the
distillation. Gates, which are not trained, are therefore judged by the objective's probe alone
(objectives/): what a unit does to the model's own output. The distillation's gradient would also
count what it does to hidden states on the way. Weights are judged by the sum of both, and trained
by the distillation's alone. How steady training is, its own gradient tells in both cases.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.compress.calibrate.gates import Gate, applied, gated_linears, make_gates
from edgeprune.compress.context import Context
from edgeprune.compress.distil.train import Gradients, Probe, Watcher, distil
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.model.model import Model
from edgeprune.model.store import TRAINING_ATTENTION, load_model, save_model
from edgeprune.text.batches import Batch


def run(
    context: Context, source: Path, target: Path, settings: PruneStageSettings
) -> dict[str, Any]:
    """Prune the model in `source`; write it with its masks into `target`."""
    student = load_model(source, TRAINING_ATTENTION)
    pruners, checks = prune(
        student,
        context.original,
        context.batches("prune"),
        context.held_out(),
        settings,
        context.seed,
    )
    masks = {name: mask for pruner in pruners for name, mask in pruner.masks.items()}
    save_model(student, target, {name: mask.to(torch.uint8) for name, mask in masks.items()})
    return {
        "pools": [
            {
                "pattern": pruner.settings.pattern,
                "units": pruner.units,
                "removed": pruner.removed,
                "trajectory": pruner.trajectory,
            }
            for pruner in pruners
        ],
        **checks,
    }


def prune(
    student: Model,
    original: Model,
    batches: Iterator[Batch],
    held_out: Sequence[Batch],
    settings: PruneStageSettings,
    seed: int,
    watchers: Sequence[Watcher] = (),
) -> tuple[list[MomentumVariancePruner], dict[str, Any]]:
    """Prune `student` in place while it is distilled from `original`.

    Args:
        seed: of the Fisher probe.
        watchers: what sees every step before the pruners.

    Returns:
        A pruner for each pool, finished, and the trajectory of the training loop.
    """
    gates = {kind: make_gates(student, kind) for kind in settings.gate_kinds}
    pools = [(pool, _prunables(student, pool.pattern, gates)) for pool in settings.pools()]
    pruners = [MomentumVariancePruner(prunables, pool, settings.steps) for pool, prunables in pools]
    pruned = [prunable.value for _, prunables in pools for prunable in prunables]
    open_gates = [gate for kind in gates.values() for gate in kind]
    with applied(student, open_gates):
        checks = distil(
            student,
            original,
            batches,
            held_out,
            settings.training(),
            "pruning",
            watchers=[*watchers, *pruners],
            probe=make_probe(student, pruned, settings.probe, seed) if settings.probe else None,
            best_from=max(pruner.budget.steps[-1] for pruner in pruners),
            watched=pruned,
        )
    for pruner in pruners:
        pruner.finish()
    return pruners, checks


def _prunables(student: Model, pattern: str, gates: dict[str, list[Gate]]) -> list[Prunable]:
    if pattern in gates:
        return [
            Prunable(
                f"{gate.kind}.{gate.layer}",
                gate.value,
                magnitude=functools.partial(unit_norms, student, gate),
                groups=gate.groups,
                trained=[student.linear(name).weight for name in gated_linears(student, gate)],
            )
            for gate in gates[pattern]
        ]
    return [Prunable(name, student.linear(name).weight) for name in student.anatomy.block_linears()]


@torch.no_grad()
def unit_norms(model: Model, gate: Gate) -> Tensor:
    """Norm of each unit's columns in the linear that its gate feeds [units]."""
    squares = model.linear(gate.name).weight.square().sum(0)
    positions = squares.view(-1, gate.unit_size).sum(1)
    if gate.groups is None:
        return positions.sqrt()
    return torch.zeros(int(gate.groups.max()) + 1).index_add(0, gate.groups, positions).sqrt()


def make_probe(model: Model, pruned: Sequence[Tensor], strength: float, seed: int) -> Probe:
    """Gradients of `strength` times the objective's probe with respect to `pruned`.

    Sequences' gradients are independent and of mean zero (a decoder's as far as it predicts its
    text), so that their sum's size goes as the root of their number, by which it is divided.
    """
    generator = torch.Generator().manual_seed(seed)
    objective = objective_of(model)

    def probe(output: Any, batch: Batch) -> Gradients:
        loss = objective.probe(output, batch, generator)
        scale = strength / len(batch.input_ids) ** 0.5
        # No text may reach an expert.
        gradients = torch.autograd.grad(
            scale * loss, list(pruned), allow_unused=True, materialize_grads=True
        )
        return dict(zip(pruned, gradients, strict=True))

    return probe
