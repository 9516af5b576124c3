"""What a change of one tensor costs a model's outputs: predicted by gradients, or measured.

The cost is the mean of 1 - cosine to the original embedding for a sentence encoder, of the KL
divergence from the original's distribution for others (nats, per token or per text). To second
order and for errors that do not conspire it is half the sum of error^2 times the diagonal of the
Gauss-Newton matrix, which for KL is Fisher's. That diagonal is the mean square of gradients of
random outputs: of a label drawn from the model's own distribution, or of the embedding along a
random direction (2 * (1 - cosine) is a squared distance on the unit sphere).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from edgeprune.base.progress import track
from edgeprune.compress.objectives.objective import embed
from edgeprune.model.forward import Inputs, tensors
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
    count = 0
    with gradients_restored(model), torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        for batch in track(batches, "sensitivity", len(batches)):
            outputs = _outputs(model, batch)
            score = _random_score(model, outputs, generator)
            for name, gradient in zip(names, torch.autograd.grad(score, weights), strict=True):
                found[name] += gradient.square()
            count += len(outputs)
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
    distance = _distance(model)
    for batch in track(batches, "sensitivity", len(batches)):
        before = _outputs(model, batch)
        count += len(before)
        for name, formats in replacements.items():
            weight = model.linear(name).weight
            for kind, values in formats.items():
                with values_restored([weight]):
                    weight.copy_(values)
                    totals[name][kind] += float(distance(before, _outputs(model, batch)))
    return {
        name: {kind: total / count for kind, total in formats.items()}
        for name, formats in totals.items()
    }


COSTS = {"fisher": fisher_costs, "measured": measured_costs}


def _outputs(model: Model, batch: Inputs) -> Tensor:
    """Unit embeddings [texts, width], or log probabilities [texts or tokens, classes]."""
    output = model.run(batch)
    mask = tensors(batch)["attention_mask"]
    if model.task == "feature-extraction":
        return embed(output, mask, model.pooling)
    logits = output.logits[mask.bool()] if output.logits.dim() == 3 else output.logits
    return log_softmax(logits.float(), dim=-1)


def _random_score(model: Model, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """A number whose gradient's mean square is the Gauss-Newton diagonal, summed over outputs."""
    if model.task == "feature-extraction":
        return (outputs * torch.randn(outputs.shape, generator=generator)).sum()
    drawn = outputs.detach().exp().multinomial(1, generator=generator)
    return outputs.gather(1, drawn).sum()


def _distance(model: Model) -> Callable[[Tensor, Tensor], Tensor]:
    """Summed over texts or tokens: 1 - cosine, or KL(before || after)."""
    if model.task == "feature-extraction":
        return lambda before, after: (before - after).square().sum() / 2
    return lambda before, after: kl_div(after, before, log_target=True, reduction="sum")
