"""Scores of whole layers, by which some may go: higher means keep.

loss       what the model loses on the text when this layer alone is left out (Shortened LLaMA,
           2402.02834, by perplexity), as the task's objective measures damage: the rise of the
           text's cross-entropy, or the distance from the whole model's answers
taylor     sum of |w dL/dw| over the layer's linears, L the loss over the whole text; with the
           first four and last two layers kept out of it this is the same paper's Taylor+
linearity  1 - linearity of the layer as a map from token to token (linearity.py)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.compress.cut.linearity import Linearity
from edgeprune.compress.cut.surgery import keep_layers, only_layers
from edgeprune.compress.maths.ranking import highest
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.model.model import Model
from edgeprune.model.restored import gradients_restored
from edgeprune.text.batches import Batch


def drop_layers(
    model: Model, scores: Tensor, count: int, first: int = 0, last: int = 0
) -> list[int]:
    """Drop the `count` layers of the lowest scores [layers]; return their positions.

    Args:
        first, last: layers at either end that stay whatever their score.

    Raises:
        UserError: fewer than `count` can go.
    """
    total = len(scores)
    free = max(0, total - first - last)
    if count > free or count >= total:
        raise UserError(
            f"{count} of {total} layers cannot go while {first} at the start and {last} at the end "
            "are kept and one is left: lower cut.layers, cut.keep_first or cut.keep_last."
        )
    if not bool(torch.isfinite(scores).all()):
        raise UserError("cut.layer_score: not all scores of the layers are finite: use another.")
    inner = highest(scores[first : total - last], free - count)
    dropped = [first + place for place in (~inner).nonzero().flatten().tolist()]
    keep_layers(model, [layer for layer in range(total) if layer not in dropped])
    return dropped


def layer_scores(model: Model, batches: Sequence[Batch], score: str, seed: int) -> Tensor:
    """Scores [layers] by `score`: loss, taylor or linearity."""
    return _SCORES[score](model, batches, seed)


@torch.no_grad()
def loss_changes(model: Model, batches: Sequence[Batch], seed: int) -> Tensor:
    """Damage, mean over texts, when each layer alone is left out."""
    whole = references(model, batches)
    everything = list(range(len(model.anatomy.blocks)))
    changes = []
    for left_out in track(everything, "leaving layers out", len(everything)):
        with only_layers(model, [layer for layer in everything if layer != left_out]):
            changes.append(damage(model, batches, whole))
    return torch.tensor(changes, dtype=torch.float64)


@torch.no_grad()
def references(model: Model, batches: Sequence[Batch]) -> list[Tensor]:
    """References of the model's outputs, which the objective compares, a batch each."""
    objective = objective_of(model)
    return [objective.reference(model.run(batch), batch) for batch in batches]


@torch.no_grad()
def damage(model: Model, batches: Sequence[Batch], whole: Sequence[Tensor]) -> float:
    """Damage of the model as it is against references of the whole one, mean over texts."""
    objective = objective_of(model)
    found = references(model, batches)
    lost = [objective.damage(*pair) for pair in zip(found, whole, strict=True)]
    texts = sum(len(batch.input_ids) for batch in batches)
    weighted = [x * len(b.input_ids) for x, b in zip(lost, batches, strict=True)]
    return sum(weighted) / texts


def taylor(model: Model, batches: Sequence[Batch], seed: int) -> Tensor:
    """Sum over a layer's linears of |w dL/dw|, L summed over the texts."""
    generator = torch.Generator().manual_seed(seed)
    objective = objective_of(model)
    linears = [
        [model.linear(name).weight for name in block.linears()] for block in model.anatomy.blocks
    ]
    with gradients_restored(model):
        model.module.requires_grad_(False)
        model.module.zero_grad()
        for weight in (weight for layer in linears for weight in layer):
            weight.requires_grad_(True)
        for batch in track(batches, "scoring layers", len(batches)):
            objective.probe(model.run(batch), batch, generator).backward()
        scores = [
            sum(float((w * w.grad).abs().sum().detach()) for w in layer if w.grad is not None)
            for layer in linears
        ]
    return torch.tensor(scores, dtype=torch.float64)


@torch.no_grad()
def nonlinearity(model: Model, batches: Sequence[Batch], seed: int) -> Tensor:
    """1 - linearity of each layer, by what passes from layer to layer."""
    walk = Walk(model, batches)
    scores = []
    blocks = model.anatomy.blocks
    for block in track(blocks, "scoring layers", len(blocks)):
        entered = walk.states()
        walk.advance(block)
        seen = Linearity(entered[0].shape[-1])
        for before, after in zip(entered, walk.states(), strict=True):
            seen.add(before, after)
        scores.append(1 - seen.finish())
    return torch.tensor(scores, dtype=torch.float64)


_SCORES: dict[str, Callable[[Model, Sequence[Batch], int], Tensor]] = {
    "loss": loss_changes,
    "taylor": taylor,
    "linearity": nonlinearity,
}
