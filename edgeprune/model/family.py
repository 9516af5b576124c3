"""The facts in which families of architectures differ, as data: a family is a `Family`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeprune.model.decoder_function import DecoderFunction
from edgeprune.model.encoder_function import EncoderFunction

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fused:
    """Linears of one input stored as one weight, which loading takes apart into linears of their
    own, below its path."""

    path: str
    parts: tuple[str, ...] = ("query", "key", "value")
    """In the order of their rows."""
    interleaved: bool = False
    """Rows are (query, key, value) of head 0, of head 1...; not all queries, all keys, all values.
    """

    def sizes(self, rows: int, query_rows: int) -> dict[str, int]:
        """The rows of a weight that each part has: the query those that the configuration says,
        the others equally many."""
        first = query_rows if "query" in self.parts else rows // len(self.parts)
        rest = (rows - first) // (len(self.parts) - 1)
        return {part: rest if place else first for place, part in enumerate(self.parts)}


@dataclass(frozen=True)
class ExpertPaths:
    """Paths of a mixture-of-experts layer's parts; a layer may also be dense."""

    module: str
    """The module that routes tokens to experts."""
    router: str
    experts: str
    """The list of experts; `gate`, `up` and `down` are relative to each."""
    gate: str
    up: str
    down: str
    stacked: tuple[str, str]
    """The tensors in which transformers stacks all experts: gate and up projections in one
    (experts, outputs, inputs), and down projections in another; loading takes them apart."""
    shared: str | None = None
    """A feed-forward beside the experts that reads every token."""
    shared_gate: str | None = None
    """The linear whose logistic value scales what that one answers."""
    normalized: str | None = None
    """The setting by which a token's chosen weights sum to 1; None where they always do."""


@dataclass(frozen=True)
class ConvolutionPaths:
    """The parts of a layer that has a short convolution in place of attention."""

    input: str
    """The linear before it, of two gates and what is convolved."""
    kernel: str
    """Its taps of every channel (channels, 1, taps)."""
    output: str


@dataclass(frozen=True)
class Disentangled:
    """The parts of an attention that knows distances of tokens, and the settings that say which it
    has; see `edgeprune.model.distances`. The table and its norm are the base model's, the linears a
    layer's."""

    key: str
    query: str
    table: str = "encoder.rel_embeddings"
    norm: str = "encoder.LayerNorm"
    buckets: str | None = None
    shared: str | None = None
    """The setting by which the linears of text are those of distances too."""
    norms: str | None = None


@dataclass(frozen=True)
class Family:
    """Paths of the parts in one family of architectures, relative to a layer."""

    model_types: tuple[str, ...]
    layers: str
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    attention: str
    """The module that holds the head counts of `head_attributes`."""
    head_attributes: Mapping[str, Literal["heads", "width", "groups"]]
    """Attributes to set when heads leave: head count, heads x head size, or heads per key head; of
    an attention's config, such as it reads itself."""
    embeddings: Mapping[str, str]
    causal: bool = False
    """Whether a token sees only those before it."""
    has_cache: bool = False
    """Whether a call keeps the keys and values of its tokens for those that follow."""
    gate: str | None = None
    attention_norm: str | None = None
    feed_forward_norm: str | None = None
    """Norms read by nothing but the query, key and value, or the gate and up projections."""
    layer_count: str = "num_hidden_layers"
    """The setting for how many layers the files hold."""
    repeats: str | None = None
    """The setting for how often these run one after the other, each time with the same weights;
    None: once."""
    head_bias: tuple[str, str] | None = None
    """Module and keyword by which a layer receives a bias with one slice per original head."""
    disentangled: Disentangled | None = None
    optional_tables: Mapping[str, str] = field(default_factory=dict)
    """Settings by which embeddings are left out though a file may hold their table, by role."""
    known_only: Mapping[str, Any] = field(default_factory=dict)
    """Settings of which a model may have these values alone; of others nothing here is known."""
    unread_pooler: str | None = None
    """A pooler beside the encoder, which no sentence embedding reads."""
    position_offset: int = 0
    """Rows of the position table that no token reaches, where positions start above a padding id
    of 1; see `padded_positions`."""
    padded_positions: bool = False
    """Whether positions start above the configuration's padding id, whatever it is."""
    position_rows: int = 0
    """Rows of the position table beyond max_position_embeddings."""
    rotary: Mapping[str, str] = field(default_factory=dict)
    """Settings of rotary positions by the names that the family gives them: rope_theta, and
    partial_rotary_factor and original_max_position_embeddings where these stand outside
    rope_scaling; none where it has no such positions. Where layers with a window have a base of
    their own, its setting is window_theta."""
    turned_share: float = 1.0
    """The share of a head that they turn where the configuration does not say."""
    assumed: Mapping[str, Any] = field(default_factory=dict)
    """The values of settings that are left out, where they are facts of the function."""
    stretches: bool = True
    """Whether rotary positions may be stretched (rope_scaling)."""
    window_pattern: tuple[str | None, int, int] | None = None
    """The setting, if there is one, and the default of the layers of which one has no window, where
    layer_types are not stated; and the first such layer, from 0, or -1: the last of so many."""
    unheeded: tuple[str, ...] = ()
    """Settings that change a model's function and that transformers' own attention leaves out."""
    bidirectional: str | None = None
    """The setting by which a token sees those after it too; such a model embeds, and keeps no
    cache."""
    ties: bool = False
    """Whether embeddings and that head are one where the configuration does not say."""
    in_gguf: bool = False
    """Whether GGUF files of the family can be read."""
    fused: tuple[Fused, ...] = ()
    depth_scaled: str | None = None
    """The setting by which layer i, from 0, divides its attention scores by i + 1; loading folds
    that into the queries."""
    transposed: bool = False
    """Stored weights of the layers are (inputs, outputs); loading turns them."""
    unnormed_first: bool = False
    """The first layer's attention reads the states as they are, which a norm after the embeddings
    made; so that layer stays the first."""
    norms_first: str | None = None
    """The setting by which norms stand before what reads them; None where they always do."""
    norm_offset: float = 0.0
    """The number that a norm adds to its stored weight."""
    experts: ExpertPaths | None = None
    convolution: ConvolutionPaths | None = None
    """Of the layers that do not attend, where the family has such."""
    rounds_channels: str | None = None
    """The setting by which feed-forwards are not as wide as the configuration says, but as wide as
    transformers makes of that; true where it is missing."""
    head: str = "lm_head"
    """The linear that yields a logit for each token of the vocabulary."""
    in_files: Mapping[str, str] = field(default_factory=dict)
    """Parts of the names of tensors in a model's files, and what they are called once it is read.
    """
    encoder: EncoderFunction | None = None
    """By which a graph is written; None: it is traced."""
    decoder: DecoderFunction | None = None
    """The same of a decoder."""
