"""The cost of a change of one tensor to the outputs: predicted by gradients, or measured.

The cost is the mean of 1 - cosine to the original embedding for a sentence encoder, of the KL
divergence from the original's distribution for others (nats, per token or per text). To second
order and for errors that do not conspire it is half the sum of error^2 times the diagonal of the
Gauss-Newton matrix, which for KL is Fisher's. That diagonal is the mean square of gradients of
random outputs: of a label drawn from the model's own distribution, or of the embedding along a
random direction (2 * (1 - cosine) is a squared distance on the unit sphere).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgeprune.base.progress import track
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.model.restored import gradients_restored, values_restored

Replacements = Mapping[str, Mapping[str, Tensor]]
"""By tensor and format the values [out, in] that it would have."""


def fisher_diagonals(
    model: Model, names: Sequence[str], batches: Sequence[Inputs], seed: int
) -> dict[str, Tensor]:
    """The Gauss-Newton matrix's diagonal [out, in] of each linear, per text or per token."""
    weights = [model.linear(name).weight for name in names]
    found = {name: torch.zeros_like(weight) for name, weight in zip(names, weights, strict=True)}
    generator = torch.Generator().manual_seed(seed)
    objective = objective_of(model)
    count = 0
    with gradients_restored(model), torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        for batch in track(batches, "sensitivity", len(batches)):
            answer = objective.answer(model.run(batch), batch)
            loss = objective.sampled_loss(answer, generator)
            for name, gradient in zip(names, torch.autograd.grad(loss, weights), strict=True):
                found[name] += gradient.square()
            count += len(answer)
    return {name: total / count for name, total in found.items()}


@torch.no_grad()
def fisher_costs(
    model: Model, replacements: Replacements, batches: Sequence[Inputs], seed: int
) -> dict[str, dict[str, float]]:
    """The predicted cost of every replacement alone."""
    diagonals = fisher_diagonals(model, list(replacements), batches, seed)
    return {
        name: {
            kind: 0.5 * float((diagonals[name] * (values - model.linear(name).weight) ** 2).sum())
            for kind, values in formats.items()
        }
        for name, formats in replacements.items()
    }


@torch.no_grad()
def measured_costs(
    model: Model, replacements: Replacements, batches: Sequence[Inputs], seed: int
) -> dict[str, dict[str, float]]:
    """The cost of every replacement alone, by running the model with it; nothing is random."""
    totals = {name: dict.fromkeys(formats, 0.0) for name, formats in replacements.items()}
    count = 0
    objective = objective_of(model)
    for batch in track(batches, "sensitivity", len(batches)):
        before = objective.answer(model.run(batch), batch)
        count += len(before)
        for name, formats in replacements.items():
            weight = model.linear(name).weight
            for kind, values in formats.items():
                with values_restored([weight]):
                    weight.copy_(values)
                    after = objective.answer(model.run(batch), batch)
                    totals[name][kind] += float(objective.distance(after, before))
    return {
        name: {kind: total / count for kind, total in formats.items()}
        for name, formats in totals.items()
    }


COSTS = {"fisher": fisher_costs, "measured": measured_costs}
