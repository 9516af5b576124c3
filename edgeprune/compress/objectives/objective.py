"""Comparisons of a task's outputs, and the losses of training: found by the model's task.

    embedding.py        sentence encoders: cosines, similarities in a batch, hidden states
    classification.py   classifiers: KL, labels, hidden states
    multilabel.py       classifiers with several labels a text: the same of each label's yes or no
    regression.py       models of one logit, rerankers: squared differences, scores, hidden states
    tagging.py          classifiers of tokens: the same of every token
    spans.py            models that mark an answer: its first and its last token
    masked.py           encoders that fill in masked tokens: the same of these
    generation.py       decoders: KL per token, the text's own tokens

Student and teacher are a model under compression and its original. A student that still equals its
teacher has no gradient from their comparison, so neither a one-shot score nor the first steps of
pruning could tell its units apart: they go by `probe`, whose squared gradient, over many texts, is
Fisher information.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from edgeprune.base.registry import load_function
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.model.tasks import TASKS
from edgeprune.text.batches import Batch

Distance = Callable[[Any], float]
"""A candidate's output -> its distance from the teacher's."""


class Objective(Protocol):
    """One task's comparisons. An output is what the torch module answers to a batch."""

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """The task's answers [texts or real tokens, width], by which outputs are compared."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Distances of answers from a teacher's, summed over them."""

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The distance of candidates' outputs: what training minimizes, without labels.

        The teacher's part is computed once for all candidates.
        """

    def reference(self, output: Any, batch: Batch) -> Tensor:
        """Input of `damage`: small enough to be kept for a whole text."""

    def damage(self, student: Tensor, teacher: Tensor) -> float:
        """Mean loss by a change of the model, from references after and before it."""

    def probe(self, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        """A scalar whose squared gradient is Fisher information; summed over sequences, so that
        each one's gradient stands by itself."""

    def sampled_loss(self, answer: Tensor, generator: torch.Generator) -> Tensor:
        """The same of answers, with targets drawn from the prediction: the mean square of its
        gradient is the diagonal of the Gauss-Newton matrix of `distance`."""

    by_text: bool
    """Whether `wanted` is a row a text, few enough numbers to be kept on disk for a whole text."""

    def wanted(self, teacher: Any, batch: Batch) -> Tensor:
        """The part of a teacher's output that the loss reads, hidden states aside."""

    def loss_from(self, student: Any, wanted: Tensor, batch: Batch, weights: LossWeights) -> Tensor:
        """The loss that training minimizes where hidden states are not compared."""

    def loss(self, student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Tensor:
        """The loss that training minimizes."""

    def reads_hidden_states(self, weights: LossWeights) -> bool:
        """True where `loss` reads the outputs' hidden states."""


def objective_of(model: Model) -> Objective:
    """The objective of a model's task: what the function `objective` of the task's module makes."""
    found: Objective = load_function(f"{TASKS[model.task].objective}:objective")(model)
    return found
