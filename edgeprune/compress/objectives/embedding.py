"""Sentence encoders: answers are unit embeddings, compared by cosine.

    loss   embedding_weight * (1 - cosine) + similarity_weight * MSE of the batch's similarity
           matrices + hidden_weight * sum over layers of hidden MSE

The parts of the loss are our own choice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.hidden import hidden_error
from edgeprune.compress.objectives.objective import Distance
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.forward import Inputs, tensors
from edgeprune.model.model import Model
from edgeprune.model.pooling import MAX, Pooling, pooled_tokens, token_weights
from edgeprune.model.projection import LayerNorm, Step, UnitLength
from edgeprune.text.batches import Batch
from edgeprune.text.prompts import prompt_tokens
from edgeprune.text.tokenizer_file import open_tokenizer


def embed(
    output: Any,
    mask: Tensor,
    pooling: Pooling,
    steps: Sequence[Step] = (),
    left_out: int = 0,
    width: int | None = None,
) -> Tensor:
    """Sentence embeddings [sequences, width] in float32, of length 1.

    Args:
        left_out: the first tokens of every sequence that are not pooled.
        width: how many values are left in the end; None: all.
    """
    hidden, real = output.last_hidden_state.float(), mask.cpu().numpy()
    none = np.full(len(real), left_out)
    parts = []
    for mode in pooling.modes:
        if mode == MAX:
            taken = torch.from_numpy(pooled_tokens(real, none)).to(hidden.device)
            parts.append(hidden.masked_fill(~taken.unsqueeze(-1), -torch.inf).amax(1))
        else:
            weights = torch.from_numpy(token_weights(mode, real, none)).to(hidden)
            parts.append((hidden * weights.unsqueeze(-1)).sum(1))
    vectors = _through(steps, torch.cat(parts, -1))
    return functional.normalize(vectors[:, :width], dim=-1)


def _through(steps: Sequence[Step], vectors: Tensor) -> Tensor:
    """Pooled vectors after the steps."""
    for step in steps:
        if isinstance(step, UnitLength):
            vectors = functional.normalize(vectors, dim=-1)
            continue
        weight = torch.from_numpy(step.weight).to(vectors)
        bias = torch.from_numpy(step.bias).to(vectors)
        if isinstance(step, LayerNorm):
            vectors = functional.layer_norm(vectors, bias.shape, weight, bias, step.epsilon)
        else:
            vectors = _ACTIVATE[step.activation](functional.linear(vectors, weight, bias))
    return vectors


_ACTIVATE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
}


@dataclass(frozen=True)
class EmbeddingObjective:
    """pooling, steps, left_out, width: the model's, as `embed` takes them. layers: which of the
    teacher's layers the student has."""

    pooling: Pooling
    layers: Sequence[int]
    steps: Sequence[Step] = ()
    left_out: int = 0
    width: int | None = None
    by_text: ClassVar[bool] = True

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """Unit embeddings [texts, width]."""
        mask = tensors(batch)["attention_mask"]
        return embed(output, mask, self.pooling, self.steps, self.left_out, self.width)

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

    def wanted(self, teacher: Any, batch: Batch) -> Tensor:
        """The answers."""
        return self.answer(teacher, batch)

    def loss_from(self, student: Any, wanted: Tensor, batch: Batch, weights: LossWeights) -> Tensor:
        """The first two parts."""
        found = self.answer(student, batch)
        loss = weights.embedding_weight * (1 - (found * wanted).sum(-1)).mean()
        similarities = functional.mse_loss(found @ found.T, wanted @ wanted.T)
        return loss + weights.similarity_weight * similarities

    def loss(self, student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Tensor:
        """As at the top of the file; every part is zero where student and teacher agree."""
        loss = self.loss_from(student, self.wanted(teacher, batch), batch, weights)
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
    library, left_out = model.library, 0
    if not model.pooling.include_prompt and (prompt := library.prompt()):
        left_out = prompt_tokens(open_tokenizer(model.folder / "tokenizer.json"), prompt)
    return EmbeddingObjective(model.pooling, model.runs, model.steps, left_out, library.width)
