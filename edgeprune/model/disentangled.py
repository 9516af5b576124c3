"""DeBERTa's attention as one module for its versions, with a linear each for query, key and value.

transformers' own calls a layer's linears a second time for the distances of tokens where they serve
both (share_att_key), so that whoever watches what a linear reads would see a table among the text;
its first version stores query, key and value as one weight. Here a linear is called for the text
alone, and what is made of distances reads its weights. The function is the same.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.model.distances import Distances
from edgeprune.model.family import Family

_BIASES = {"q_bias": "in_proj.query", "v_bias": "in_proj.value"}
"""Those that its first version keeps beside the weight of all three."""


class DisentangledAttention(nn.Module):
    """softmax((q k^T + q kd^T + qd k^T) / sqrt(size * products)) v, kd and qd by distance."""

    def __init__(self, theirs: Any, family: Family, distances: Distances) -> None:
        """`theirs`: transformers' own of a layer, whose linears of text are plain by now."""
        super().__init__()
        inside = f"{family.attention}."
        self._text = [
            path.removeprefix(inside) for path in (family.query, family.key, family.value)
        ]
        self._distances = [
            path and path.removeprefix(inside) for path in (distances.key, distances.query)
        ]
        for path in (*self._text, *filter(None, self._distances)):
            name = path.partition(".")[0]
            self.add_module(name, getattr(theirs, name))
        for name, path in _BIASES.items():
            if hasattr(theirs, name):
                self.get_submodule(path).bias = getattr(theirs, name)
        self._span = distances.span
        self.num_attention_heads: int = theirs.num_attention_heads
        self.head_dim: int = theirs.attention_head_size
        self.scale = 1 / math.sqrt(self.head_dim * distances.products)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(texts, tokens, width) to the same with the width of the heads.

        Args:
            attention_mask: true where a token sees another (texts, 1, tokens, tokens).
            relative_pos: the distance of every two tokens (1, tokens, tokens), in buckets.
            rel_embeddings: the table of distances (2 * span, width), normed.
        """
        assert relative_pos is not None
        assert rel_embeddings is not None
        query, key, value = (
            self._heads(self.get_submodule(path)(hidden_states)) for path in self._text
        )
        scores = query @ key.transpose(-1, -2)
        for path, rows, sign in zip(self._distances, (query, key), (1, -1), strict=True):
            if path is None:
                continue
            linear: Any = self.get_submodule(path)
            made = functional.linear(rel_embeddings, linear.weight, linear.bias)
            products = rows @ self._heads(made).transpose(-1, -2)
            places = (sign * relative_pos + self._span).clamp(0, 2 * self._span - 1)
            found = products.gather(-1, places[:, None].expand_as(scores))
            scores = scores + (found if sign > 0 else found.transpose(-1, -2))
        hidden = torch.finfo(scores.dtype).min
        scores = (scores * self.scale).masked_fill(~attention_mask.bool(), hidden)
        context = scores.softmax(-1) @ value
        return context.transpose(1, 2).flatten(-2), None

    def _heads(self, rows: Tensor) -> Tensor:
        """(..., rows, width) -> (..., heads, rows, head size)."""
        return rows.unflatten(-1, (self.num_attention_heads, self.head_dim)).transpose(-3, -2)
