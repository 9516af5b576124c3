"""The function of a family's encoders, where it does not follow from the paths of their parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeprune.model.decoder_function import HeadLayers


@dataclass(frozen=True)
class DistanceBias:
    """A bias that is added to the scores of two tokens by their distance: near ones have a row of
    the table each, further ones share rows on a logarithmic scale (Raffel et al., 2020, section
    2.1), half of them for tokens before and half for those after. A column for each original
    head."""

    table: str
    buckets: int
    furthest: int
    """The distance from which on all share the last row."""


@dataclass(frozen=True)
class EncoderFunction:
    """The function of an encoder's parts, where it does not follow from their names: with this its
    graph is written from its tensors. Norms follow the additions."""

    norms: tuple[str, str]
    """The norms after the attention and after the feed-forward, relative to a layer."""
    label_head: HeadLayers
    """From the state of a text's first token to a logit for each label; paths are relative to the
    base model or, where it has no such part, to the whole."""
    token_head: HeadLayers = (("classifier", None),)
    """The same from the state of every token."""
    word_head: HeadLayers = ()
    """From the state of every token to a logit for each that may stand there; the last is the
    family's `head`."""
    span_head: HeadLayers = (("qa_outputs", None),)
    """From the state of every token to two logits, to be the first and the last of an answer."""
    embedding_norm: str = "embeddings.LayerNorm"
    projection: str | None = None
    """A linear after the embeddings where these are narrower than the layers."""
    projects_first: bool = False
    """That linear stands before the embeddings' norm."""
    activation: str = "hidden_act"
    """The setting that names the feed-forward's."""
    epsilon: str | None = "layer_norm_eps"
    """The setting of the norms' epsilon, 1e-12 where there is none."""
    distance_bias: DistanceBias | None = None
    written: Mapping[str, Any] = field(
        default_factory=lambda: {"position_embedding_type": "absolute", "is_decoder": False}
    )
    """Settings of which only these values are known here; they may be missing."""
