"""Sentence encoders: answers are unit embeddings, compared by cosine.

    loss   embedding_weight * (1 - cosine) + similarity_weight * MSE of the batch's similarity
           matrices + hidden_weight * sum over layers of hidden MSE

The parts of the loss are our own choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.hidden import hidden_error
from edgeprune.compress.objectives.objective import Distance
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.forward import Inputs, tensors
from edgeprune.model.model import Model
from edgeprune.model.pooling import Pooling
from edgeprune.model.projection import Projection
from edgeprune.text.batches import Batch


def embed(
    output: Any, mask: Tensor, pooling: Pooling, projections: Sequence[Projection] = ()
) -> Tensor:
    """Pooled, projected, normalized sentence embeddings [sequences, width] in float32."""
    if pooling == "cls":
        pooled = output.last_hidden_state[:, 0].float()
    else:
        weights = mask.unsqueeze(-1).float()
        pooled = (output.last_hidden_state.float() * weights).sum(1) / weights.sum(1)
    for linear in projections:
        weight, bias = torch.from_numpy(linear.weight), torch.from_numpy(linear.bias)
        pooled = functional.linear(pooled, weight.to(pooled.device), bias.to(pooled.device))
    return functional.normalize(pooled, dim=-1)


@dataclass(frozen=True)
class EmbeddingObjective:
    """pooling, projections: the model's. layers: which of the teacher's layers the student has."""

    pooling: Pooling
    layers: Sequence[int]
    projections: Sequence[Projection] = ()

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """Unit embeddings [texts, width]."""
        return embed(output, tensors(batch)["attention_mask"], self.pooling, self.projections)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """1 - cosine, summed: half the squared distance on the unit sphere."""
        return (teacher - student).square().sum() / 2

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The loss at its default weights, hidden states left out."""
        weights = LossWeights(label_weight=0, hidden_weight=0)
        return lambda student: float(self.loss(student, teacher, batch, weights))

    def reference(self, output: Any, batch: Batch) -> Tensor:
        """The answers."""
        return self.answer(output, batch)

    def damage(self, student: Tensor, teacher: Tensor) -> float:
        """Mean of 1 - cosine."""
        return float(self.distance(student, teacher)) / len(teacher)

    def probe(self, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        """v . e with v random per text: the embedding's own Fisher score."""
        return self.sampled_loss(self.answer(output, batch), generator)

    def sampled_loss(self, answer: Tensor, generator: torch.Generator) -> Tensor:
        """Embeddings along random directions."""
        return (answer * torch.randn(answer.shape, generator=generator)).sum()

    def loss(self, student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Tensor:
        """As at the top of the file; every part is zero where student and teacher agree."""
        found, wanted = self.answer(student, batch), self.answer(teacher, batch)
        loss = weights.embedding_weight * (1 - (found * wanted).sum(-1)).mean()
        similarities = functional.mse_loss(found @ found.T, wanted @ wanted.T)
        loss = loss + weights.similarity_weight * similarities
        if weights.hidden_weight:
            mask = torch.from_numpy(batch.attention_mask)
            error = hidden_error(student, teacher, mask, self.layers)
            loss = loss + weights.hidden_weight * error
        return loss

    def reads_hidden_states(self, weights: LossWeights) -> bool:
        """True where their error has a weight."""
        return weights.hidden_weight > 0


def objective(model: Model) -> EmbeddingObjective:
    """A sentence encoder's objective."""
    return EmbeddingObjective(model.pooling, model.layers, model.projections)
