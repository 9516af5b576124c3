"""The prune stage: momentum-variance pruning while distilling from the original.

The saliencies read gradients, and a student that still equals its original has none. Sentence
encoders therefore see sampled targets, as the true Fisher information asks: the original's
embedding plus a random direction xi per text, whose gradient is xi . (embedding's derivative).
Its square over many texts is the Fisher score of the embedding itself; its mean is zero, so the
weights drift nowhere. Classifiers and decoders see the text's own labels or next tokens.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.build import Build
from edgeprune.gates import Gate, applied, make_gates
from edgeprune.models import Model, load_model, save_model
from edgeprune.prune.controller import MomentumVariancePruner, Prunable
from edgeprune.prune.train_settings import PruneStageSettings
from edgeprune.recover.objective import embed
from edgeprune.recover.train import ExtraLoss, distil
from edgeprune.text.batches import Batch


def run(build: Build, source: Path, target: Path, settings: PruneStageSettings) -> dict[str, Any]:
    """Prune the model in `source`; write it with its masks into `target`."""
    student = load_model(source)
    gates = {kind: make_gates(student, kind) for kind in settings.gate_kinds}
    pruners = [
        MomentumVariancePruner(_prunables(student, pool.pattern, gates), pool, settings.steps)
        for pool in settings.pools()
    ]
    open_gates = [gate for kind in gates.values() for gate in kind]
    with applied(student, open_gates):
        checks = distil(
            student,
            build.original,
            build.batches(),
            build.held_out(),
            settings.training(),
            "pruning",
            watchers=pruners,
            extra_loss=_sampled_targets(student, settings),
            best_from=max(pruner.budget.steps[-1] for pruner in pruners),
        )
    for pruner in pruners:
        pruner.finish()
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


def _prunables(student: Model, pattern: str, gates: dict[str, list[Gate]]) -> list[Prunable]:
    if pattern in gates:
        return [
            Prunable(
                f"{gate.kind}.{gate.layer}",
                gate.value,
                magnitude=unit_norms(student, gate),
                groups=gate.groups,
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


def _sampled_targets(student: Model, settings: PruneStageSettings) -> ExtraLoss | None:
    if student.task != "feature-extraction" or not settings.target_noise:
        return None

    def loss(output: Any, batch: Batch, mask: Tensor) -> Tensor:
        embedding = embed(output, mask)
        direction = torch.randn_like(embedding)
        return settings.target_noise * (direction * embedding).sum(-1).mean()

    return loss
