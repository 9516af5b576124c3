"""What distillation minimizes, by the model's task: distances between student and original.

    sentence encoders   embedding_weight * (1 - cosine) + similarity_weight * MSE of the batch's
                        similarity matrices + hidden_weight * sum over layers of hidden MSE
    classifiers         logits_weight * T^2 KL(original || student) + label_weight * cross-entropy
                        + hidden_weight * hidden MSE
    decoders            logits_weight * T^2 KL per token + label_weight * cross-entropy of the text

The parts of the encoder's loss are our own choice; KL with temperature is Hinton et al., 2015.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.model import Model
from edgeprune.model.pooling import Pooling
from edgeprune.text.batches import Batch


def embed(output: Any, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pooled, normalized sentence embeddings [sequences, width] in float32."""
    if pooling == "cls":
        return functional.normalize(output.last_hidden_state[:, 0].float(), dim=-1)
    weights = mask.unsqueeze(-1).float()
    pooled = (output.last_hidden_state.float() * weights).sum(1) / weights.sum(1)
    return functional.normalize(pooled, dim=-1)


def hidden_error(student: Any, original: Any, mask: Tensor, layers: Sequence[int]) -> Tensor:
    """Squared error of the hidden states per token and feature, summed over the student's layers.

    Args:
        layers: which of the original's layers the student has. Before a gap, a layer is to hand on
            what the layer after the gap was given in the original.
    """
    weights = mask.unsqueeze(-1).float()
    total = torch.zeros(())
    wanted = [original.hidden_states[place] for place in (*layers[1:], -1)]
    for mine, its in zip(student.hidden_states[1:], wanted, strict=True):
        error = (mine.float() - its.float()).square() * weights
        total = total + error.sum() / (weights.sum() * mine.shape[-1])
    return total


def embedding_loss(
    student: Any,
    original: Any,
    mask: Tensor,
    pooling: Pooling,
    settings: LossWeights,
    layers: Sequence[int],
) -> Tensor:
    """The encoder's objective; every part is zero where student and original agree."""
    mine, its = embed(student, mask, pooling), embed(original, mask, pooling)
    loss = settings.embedding_weight * (1 - (mine * its).sum(-1)).mean()
    loss = loss + settings.similarity_weight * functional.mse_loss(mine @ mine.T, its @ its.T)
    if settings.hidden_weight:
        loss = loss + settings.hidden_weight * hidden_error(student, original, mask, layers)
    return loss


def divergence(student: Tensor, original: Tensor, temperature: float) -> Tensor:
    """T^2 KL(original || student) of logits [..., classes], mean over the leading axes."""
    mine = functional.log_softmax(student.float() / temperature, -1).flatten(0, -2)
    its = functional.log_softmax(original.float() / temperature, -1).flatten(0, -2)
    kl = functional.kl_div(mine, its, log_target=True, reduction="batchmean")
    return temperature**2 * kl


def classifier_loss(
    student: Any,
    original: Any,
    batch: Batch,
    mask: Tensor,
    settings: LossWeights,
    layers: Sequence[int],
) -> Tensor:
    """The classifier's objective, with labels where they are asked for."""
    loss = settings.logits_weight * divergence(
        student.logits, original.logits, settings.temperature
    )
    if settings.label_weight and batch.labels is not None:
        labels = torch.from_numpy(batch.labels)
        loss = loss + settings.label_weight * functional.cross_entropy(
            student.logits.float(), labels
        )
    if settings.hidden_weight:
        loss = loss + settings.hidden_weight * hidden_error(student, original, mask, layers)
    return loss


def decoder_loss(student: Any, original: Any, batch: Batch, settings: LossWeights) -> Tensor:
    """The decoder's objective over full windows of text."""
    loss = settings.logits_weight * divergence(
        student.logits, original.logits, settings.temperature
    )
    if settings.label_weight:
        loss = loss + settings.label_weight * next_token_loss(student.logits, batch)
    return loss


def next_token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the text under logits [sequences, tokens, vocabulary]."""
    target = torch.from_numpy(batch.input_ids)[:, 1:].flatten()
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), target)


@dataclass(frozen=True)
class Objective:
    """A loss of (student's output, original's output, batch, mask), and what it reads."""

    loss: Callable[[Any, Any, Batch, Tensor], Tensor]
    hidden_states: bool


def make_objective(model: Model, settings: LossWeights) -> Objective:
    """The objective for a model's task."""
    layers = model.layers
    if model.task == "feature-extraction":
        pooling = model.pooling
        return Objective(
            lambda mine, its, batch, mask: embedding_loss(
                mine, its, mask, pooling, settings, layers
            ),
            settings.hidden_weight > 0,
        )
    if model.task == "text-classification":
        return Objective(
            lambda mine, its, batch, mask: classifier_loss(
                mine, its, batch, mask, settings, layers
            ),
            settings.hidden_weight > 0,
        )
    return Objective(lambda mine, its, batch, mask: decoder_loss(mine, its, batch, settings), False)
