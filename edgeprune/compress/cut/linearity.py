"""Linearity of a layer as a map from token to token: LLM-Microscope's score (2502.15007).

With X and Y what enters and leaves a layer, one row a token, both centred and divided by their
Frobenius norm:

    linearity = 1 - min over A of ||X A - Y||^2        1: a linear map; 0: nothing of Y is one

A layer that merely passes its input on has 1, and so has one that turns it: the score says that a
layer is simple, not that it does little. A map fits anything where tokens are as few as inputs.
"""

import torch
from torch import Tensor

from edgeprune.base.errors import UserError

_TOKENS = 2
"""Tokens that are needed for each value of the width."""


class Linearity:
    """The score of one layer over tokens that come batch by batch, in float64."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.sums = torch.zeros(2 * width, dtype=torch.float64)
        self.gram = torch.zeros(2 * width, 2 * width, dtype=torch.float64)

    def add(self, before: Tensor, after: Tensor) -> None:
        """Accumulate a batch of layer inputs and outputs, both [tokens, width]."""
        both = torch.cat([before, after], -1).double()
        self.gram.addmm_(both.T, both)
        self.sums += both.sum(0)
        self.count += len(both)

    def finish(self) -> float:
        """The linearity, 0 to 1.

        Raises:
            UserError: there are too few tokens to tell.
        """
        width = len(self.sums) // 2
        if self.count < _TOKENS * width:
            raise UserError(
                f"{self.count:,} tokens are too few to see whether layers of width {width:,} are "
                f"linear; it takes {_TOKENS * width:,}: raise cut.layer_samples."
            )
        centred = self.gram - torch.outer(self.sums, self.sums) / max(1, self.count)
        xx, xy, yy = centred[:width, :width], centred[:width, width:], centred[width:, width:]
        explained = (xy * (torch.linalg.pinv(xx, hermitian=True) @ xy)).sum()
        return float((explained / yy.trace().clamp(min=1e-300)).clamp(0, 1))
