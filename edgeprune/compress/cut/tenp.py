"""Importance of experts, after TENP (2606.09885): the size of an expert's output, and how far that
turns the direction of its input.

    score = mean over all tokens of  g ||y|| (1 - cos(x, x + y))

x is what the expert reads, y its output, g the router's weight for it; tokens that are routed
elsewhere count as 0. How the two parts are put together is our own reading.
"""

import torch
from torch import Tensor
from torch.nn import functional


class ExpertScore:
    """The score of one expert over tokens that come batch by batch, in float64."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Accumulate a batch: inputs and outputs [tokens, width], router weights [tokens]."""
        x, y = x.double(), y.double()
        turned = 1 - functional.cosine_similarity(x, x + y, dim=-1)
        self.total += float((weights.double() * torch.linalg.vector_norm(y, dim=-1) * turned).sum())

    def finish(self, tokens: int) -> float:
        """The mean over `tokens`, tokens that were routed elsewhere included."""
        return self.total / max(1, tokens)
