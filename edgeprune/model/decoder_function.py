"""The function of a family's decoders, where it does not follow from the paths of their parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HeadLayers = tuple[tuple[str, str | None], ...]
"""Linears and norms one after the other, each with the activation after it or the setting that
names one. Paths are relative to the base model or, where it has no such part, to the whole."""


@dataclass(frozen=True)
class DecoderFunction:
    """The function of a decoder's parts, by the names of its family's settings; with this its graph
    is written from its tensors. Paths are relative to the base model, or to a layer."""

    final_norm: str
    """The norm before the head."""
    epsilon: str | float
    """The setting for what a norm adds to the variance, or its value where no setting says it."""
    root_mean_square: bool = False
    """Norms divide by the root mean square and add nothing; otherwise they are layer norms."""
    activation: str = "hidden_act"
    """The setting for the activation's name."""
    head_norms: tuple[str, str] | None = None
    """Norms of every head's queries and keys, in a layer, where the model's files hold them."""
    norms_all_heads: bool = False
    """Those norms are over all of a token's heads together, so that none can leave."""
    answer_norms: tuple[str, str] | None = None
    """Norms of what attention and feed-forward answer, before it is added to what they read."""
    parallel: str | bool = False
    """Whether attention and feed-forward read the same states side by side, or the setting for
    it."""
    windows: Literal["every layer", "by layer type"] | None = None
    """The layers in which a token sees only so many of the last tokens, where that is set."""
    window: str = "sliding_window"
    """The setting for how many; where tokens see those after them too, for how many in all."""
    embedding_norm: str | None = None
    """A norm of the states that enter the first layer."""
    scales_embeddings: bool = False
    """Embeddings of tokens are multiplied by the root of their width."""
    embedding_factor: str | None = None
    """The setting for what embeddings of tokens are multiplied by."""
    scales_scores: str | bool = True
    """Whether scores are divided by the root of a head's size, or the setting for it."""
    score_factor: str | None = None
    """The setting for what scores are multiplied by in place of that."""
    sum_factor: str | None = None
    """The setting for what attention and feed-forward are multiplied by before they are added."""
    logit_divisor: str | None = None
    """The setting for what logits are divided by."""
    turned_layers: str | None = None
    """The setting that says of each layer, by 1 or 0, whether positions turn its heads."""
    score_size: str | None = None
    """The setting by whose root scores are divided in place of a head's size."""
    score_cap: str | None = None
    """The setting for a bound c of scores x, which become c tanh(x / c) before the mask."""
    logits_cap: str | None = None
    """The setting for such a bound of the logits."""
    takes_positions: bool = True
    """Whether a graph has position_ids among its inputs, as the hub's has."""
    shared_norm: str | None = None
    """A norm that attention and feed-forward both read, where there is one for both."""
    projections: tuple[str, str] | None = None
    """Linears after the embeddings and before the head, where the model's files hold them."""
    without_final_norm: str | bool = False
    """Whether the norm before the head is left out, or the setting for it."""
    label_head: HeadLayers = ()
    """From a text's state to a logit for each label; none where no such head is known."""
    token_head: HeadLayers = ()
    """The same from the state of every token."""
    word_head: HeadLayers = ()
    """From the state of every token to a logit for each that may stand there, where tokens see
    both sides; the last is the family's `head`."""
    span_head: HeadLayers = ()
    """From the state of every token to two logits, to be the first and the last of an answer."""
    label_pooling: str | None = None
    """The setting by which a text's state is that of its first token (cls) or the mean of all its
    tokens' (mean)."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """Settings of which only these values are known here; they may be missing."""
