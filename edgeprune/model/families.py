"""One list of families: what differs between them, as data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgeprune.base.errors import UserError
from edgeprune.model.decoder_function import DecoderFunction, HeadLayers

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
    embedding_norm: str = "embeddings.LayerNorm"
    projection: str | None = None
    """A linear after the embeddings where these are narrower than the layers."""
    projects_first: bool = False
    """That linear stands before the embeddings' norm."""
    reads_token_types: bool = False
    """Whether clients say of each token to which of two texts it belongs; else all are of 0."""
    activation: str = "hidden_act"
    """The setting that names the feed-forward's."""
    epsilon: str | None = "layer_norm_eps"
    """The setting of the norms' epsilon, 1e-12 where there is none."""
    distance_bias: DistanceBias | None = None
    written: Mapping[str, Any] = field(
        default_factory=lambda: {"position_embedding_type": "absolute", "is_decoder": False}
    )
    """Settings of which only these values are known here; they may be missing."""


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
    """Whether embeddings and a decoder's head are one where the configuration does not say."""
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
    """The linear that yields a decoder's logits."""
    in_files: Mapping[str, str] = field(default_factory=dict)
    """Parts of the names of tensors in a model's files, and what they are called once it is read.
    """
    encoder: EncoderFunction | None = None
    """By which a graph is written; None: it is traced."""
    decoder: DecoderFunction | None = None
    """The same of a decoder."""


_BERT_FUNCTION = EncoderFunction(
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    label_head=(("pooler.dense", "tanh"), ("classifier", None)),
    reads_token_types=True,
)
_DEBERTA_FUNCTION = replace(
    _BERT_FUNCTION,
    label_head=(("pooler.dense", "pooler_hidden_act"), ("classifier", None)),
    projection="embeddings.embed_proj",
    projects_first=True,
    written={},
)
_DEBERTA_ASSUMED = {
    "relative_attention": False,
    "position_biased_input": True,
    "pooler_hidden_act": "gelu",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
}
_MODERNBERT_HEAD = (
    ("head.dense", "classifier_activation"),
    ("head.norm", None),
    ("classifier", None),
)
_DENSE_HEAD = (("classifier.dense", "tanh"), ("classifier.out_proj", None))


_BERT = Family(
    model_types=("bert",),
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attention="attention.self",
    head_attributes={"num_attention_heads": "heads", "all_head_size": "width"},
    embeddings={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "token_type": "embeddings.token_type_embeddings",
    },
    unread_pooler="pooler",
    encoder=_BERT_FUNCTION,
)


_LLAMA_FUNCTION = DecoderFunction(
    final_norm="norm",
    epsilon="rms_norm_eps",
    root_mean_square=True,
    head_norms=("self_attn.q_norm", "self_attn.k_norm"),
)
_LLAMA = Family(
    model_types=("llama",),
    causal=True,
    has_cache=True,
    layers="layers",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    attention="self_attn",
    head_attributes={"num_key_value_groups": "groups"},
    embeddings={"word": "embed_tokens"},
    attention_norm="input_layernorm",
    feed_forward_norm="post_attention_layernorm",
    rotary={"rope_theta": "rope_theta"},
    decoder=_LLAMA_FUNCTION,
)
_EVERY_LAYER = replace(_LLAMA_FUNCTION, windows="every layer")
_BY_LAYER_TYPE = replace(_LLAMA_FUNCTION, windows="by layer type")


_GEMMA2_FUNCTION = replace(
    _BY_LAYER_TYPE,
    scales_embeddings=True,
    head_norms=None,
    activation="hidden_activation",
    answer_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    score_size="query_pre_attn_scalar",
    score_cap="attn_logit_softcapping",
    logits_cap="final_logit_softcapping",
    written={"use_bidirectional_attention": False},
)
_GEMMA2 = replace(
    _LLAMA,
    model_types=("gemma2",),
    norm_offset=1.0,
    ties=True,
    feed_forward_norm="pre_feedforward_layernorm",
    window_pattern=(None, 2, -1),
    assumed={
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    decoder=_GEMMA2_FUNCTION,
)


_EXPERTS = ExpertPaths(
    module="mlp",
    router="mlp.gate",
    experts="mlp.experts",
    gate="gate_proj",
    up="up_proj",
    down="down_proj",
    stacked=("gate_up_proj", "down_proj"),
)


FAMILIES: tuple[Family, ...] = (
    _BERT,
    replace(
        _BERT,
        model_types=("electra",),
        encoder=replace(
            _BERT_FUNCTION,
            label_head=(("classifier.dense", "gelu"), ("classifier.out_proj", None)),
            projection="embeddings_project",
        ),
    ),
    replace(
        _BERT,
        model_types=("roberta", "xlm-roberta"),
        position_offset=2,
        padded_positions=True,
        encoder=replace(_BERT_FUNCTION, label_head=_DENSE_HEAD, reads_token_types=False),
    ),
    Family(
        model_types=("distilbert",),
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        attention="attention",
        head_attributes={"n_heads": "heads", "dim": "width"},
        embeddings={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
        },
        encoder=EncoderFunction(
            norms=("sa_layer_norm", "output_layer_norm"),
            label_head=(("pre_classifier", "relu"), ("classifier", None)),
            activation="activation",
            epsilon=None,
        ),
    ),
    Family(
        model_types=("mpnet",),
        layers="encoder.layer",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        up="intermediate.dense",
        down="output.dense",
        attention="attention.attn",
        head_attributes={"num_attention_heads": "heads", "all_head_size": "width"},
        embeddings={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
        },
        head_bias=("attention", "position_bias"),
        unread_pooler="pooler",
        position_offset=2,
        encoder=EncoderFunction(
            norms=("attention.LayerNorm", "output.LayerNorm"),
            label_head=_DENSE_HEAD,
            distance_bias=DistanceBias("encoder.relative_attention_bias", buckets=32, furthest=128),
        ),
    ),
    replace(
        _BERT,
        model_types=("deberta-v2",),
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        head_attributes={"num_attention_heads": "heads"},
        optional_tables={"position": "position_biased_input"},
        unread_pooler=None,
        disentangled=Disentangled(
            key="attention.self.pos_key_proj",
            query="attention.self.pos_query_proj",
            buckets="position_buckets",
            shared="share_att_key",
            norms="norm_rel_ebd",
        ),
        known_only={"relative_attention": True, "conv_kernel_size": 0},
        assumed={**_DEBERTA_ASSUMED, "conv_kernel_size": 0},
        encoder=_DEBERTA_FUNCTION,
    ),
    replace(
        _BERT,
        model_types=("deberta",),
        query="attention.self.in_proj.query",
        key="attention.self.in_proj.key",
        value="attention.self.in_proj.value",
        head_attributes={"num_attention_heads": "heads"},
        fused=(Fused("attention.self.in_proj", interleaved=True),),
        in_files={".q_bias": ".in_proj.query.bias", ".v_bias": ".in_proj.value.bias"},
        optional_tables={"position": "position_biased_input"},
        unread_pooler=None,
        disentangled=Disentangled(key="attention.self.pos_proj", query="attention.self.pos_q_proj"),
        known_only={"relative_attention": True, "talking_head": False},
        assumed={**_DEBERTA_ASSUMED, "talking_head": False},
        encoder=_DEBERTA_FUNCTION,
    ),
    Family(
        model_types=("modernbert",),
        layers="layers",
        query="attn.Wqkv.query",
        key="attn.Wqkv.key",
        value="attn.Wqkv.value",
        output="attn.Wo",
        gate="mlp.Wi.gate",
        up="mlp.Wi.up",
        down="mlp.Wo",
        attention="attn",
        head_attributes={},
        embeddings={"word": "embeddings.tok_embeddings"},
        attention_norm="attn_norm",
        feed_forward_norm="mlp_norm",
        unnormed_first=True,
        fused=(Fused("attn.Wqkv"), Fused("mlp.Wi", ("gate", "up"))),
        rotary={"rope_theta": "global_rope_theta", "window_theta": "local_rope_theta"},
        stretches=False,
        window_pattern=("global_attn_every_n_layers", 3, 0),
        assumed={
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "local_attention": 128,
            "norm_eps": 1e-5,
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "classifier_pooling": "cls",
            "pad_token_id": 50283,
        },
        decoder=DecoderFunction(
            final_norm="final_norm",
            epsilon="norm_eps",
            activation="hidden_activation",
            embedding_norm="embeddings.norm",
            windows="by layer type",
            window="local_attention",
            label_head=_MODERNBERT_HEAD,
            token_head=_MODERNBERT_HEAD,
            label_pooling="classifier_pooling",
        ),
    ),
    replace(_LLAMA, in_gguf=True),
    replace(_LLAMA, model_types=("mistral",), in_gguf=True, decoder=_EVERY_LAYER),
    replace(_LLAMA, model_types=("qwen2", "qwen3"), in_gguf=True, decoder=_BY_LAYER_TYPE),
    replace(
        _LLAMA,
        model_types=("gemma",),
        norm_offset=1.0,
        ties=True,
        decoder=replace(_LLAMA_FUNCTION, scales_embeddings=True, takes_positions=False),
    ),
    _GEMMA2,
    replace(
        _GEMMA2,
        model_types=("gemma3_text",),
        rotary={"rope_theta": "rope_theta", "window_theta": "rope_local_base_freq"},
        window_pattern=("sliding_window_pattern", 6, -1),
        unheeded=("attn_logit_softcapping",),
        bidirectional="use_bidirectional_attention",
        assumed={
            **_GEMMA2.assumed,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        decoder=replace(_GEMMA2_FUNCTION, head_norms=_LLAMA_FUNCTION.head_norms, written={}),
    ),
    replace(
        _LLAMA,
        model_types=("olmo2",),
        attention_norm=None,
        feed_forward_norm=None,
        decoder=replace(
            _LLAMA_FUNCTION,
            norms_all_heads=True,
            answer_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        ),
    ),
    replace(
        _LLAMA,
        model_types=("phi3",),
        query="self_attn.qkv_proj.query",
        key="self_attn.qkv_proj.key",
        value="self_attn.qkv_proj.value",
        gate="mlp.gate_up_proj.gate",
        up="mlp.gate_up_proj.up",
        fused=(Fused("self_attn.qkv_proj"), Fused("mlp.gate_up_proj", ("gate", "up"))),
        # By it a layer tells its queries from its keys.
        head_attributes={"num_key_value_groups": "groups", "config.num_attention_heads": "heads"},
        rotary={
            "rope_theta": "rope_theta",
            "partial_rotary_factor": "partial_rotary_factor",
            "original_max_position_embeddings": "original_max_position_embeddings",
        },
        decoder=_EVERY_LAYER,
    ),
    replace(
        _LLAMA,
        model_types=("smollm3",),
        ties=True,
        decoder=replace(_BY_LAYER_TYPE, turned_layers="no_rope_layers"),
    ),
    replace(
        _LLAMA,
        model_types=("granite",),
        decoder=replace(
            _LLAMA_FUNCTION,
            embedding_factor="embedding_multiplier",
            score_factor="attention_multiplier",
            sum_factor="residual_multiplier",
            logit_divisor="logits_scaling",
        ),
    ),
    replace(
        _LLAMA,
        model_types=("mixtral",),
        decoder=_EVERY_LAYER,
        experts=_EXPERTS,
        in_files={
            ".block_sparse_moe.": ".mlp.",
            ".w1.": ".gate_proj.",
            ".w3.": ".up_proj.",
            ".w2.": ".down_proj.",
        },
    ),
    replace(
        _LLAMA,
        model_types=("qwen2_moe", "qwen3_moe"),
        decoder=_EVERY_LAYER,
        experts=replace(
            _EXPERTS,
            shared="mlp.shared_expert",
            shared_gate="mlp.shared_expert_gate",
            normalized="norm_topk_prob",
        ),
    ),
    replace(
        _LLAMA,
        model_types=("lfm2",),
        output="self_attn.out_proj",
        gate="feed_forward.w1",
        up="feed_forward.w3",
        down="feed_forward.w2",
        attention_norm="operator_norm",
        feed_forward_norm="ffn_norm",
        convolution=ConvolutionPaths("conv.in_proj", "conv.conv", "conv.out_proj"),
        rounds_channels="block_auto_adjust_ff_dim",
        ties=True,
        decoder=None,
    ),
    Family(
        model_types=("gpt2",),
        causal=True,
        has_cache=True,
        layers="h",
        query="attn.c_attn.query",
        key="attn.c_attn.key",
        value="attn.c_attn.value",
        output="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
        attention="attn",
        head_attributes={},
        embeddings={"word": "wte", "position": "wpe"},
        attention_norm="ln_1",
        feed_forward_norm="ln_2",
        fused=(Fused("attn.c_attn"),),
        depth_scaled="scale_attn_by_inverse_layer_idx",
        transposed=True,
        ties=True,
        decoder=DecoderFunction(
            final_norm="ln_f",
            epsilon="layer_norm_epsilon",
            activation="activation_function",
            scales_scores="scale_attn_weights",
            written={"add_cross_attention": False, "scale_attn_by_inverse_layer_idx": False},
        ),
    ),
    Family(
        model_types=("opt",),
        causal=True,
        has_cache=True,
        layers="decoder.layers",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.out_proj",
        up="fc1",
        down="fc2",
        attention="self_attn",
        head_attributes={},
        embeddings={"word": "decoder.embed_tokens", "position": "decoder.embed_positions"},
        position_rows=2,
        attention_norm="self_attn_layer_norm",
        feed_forward_norm="final_layer_norm",
        norms_first="do_layer_norm_before",
        ties=True,
        decoder=DecoderFunction(
            final_norm="decoder.final_layer_norm",
            epsilon=1e-5,
            activation="activation_function",
            projections=("decoder.project_in", "decoder.project_out"),
            without_final_norm="_remove_final_layer_norm",
        ),
    ),
    Family(
        model_types=("gpt_neox",),
        causal=True,
        has_cache=True,
        layers="layers",
        query="attention.query_key_value.query",
        key="attention.query_key_value.key",
        value="attention.query_key_value.value",
        output="attention.dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        attention="attention",
        head_attributes={},
        embeddings={"word": "embed_in"},
        attention_norm="input_layernorm",
        feed_forward_norm="post_attention_layernorm",
        fused=(Fused("attention.query_key_value", interleaved=True),),
        in_files={"embed_out.": "lm_head."},
        rotary={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
        turned_share=0.25,
        decoder=DecoderFunction(
            final_norm="final_layer_norm",
            epsilon="layer_norm_eps",
            parallel="use_parallel_residual",
        ),
    ),
    Family(
        model_types=("phi",),
        causal=True,
        has_cache=True,
        layers="layers",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.dense",
        up="mlp.fc1",
        down="mlp.fc2",
        attention="self_attn",
        head_attributes={"num_key_value_groups": "groups"},
        # One norm is read by attention and feed-forward both, so that neither may change it.
        embeddings={"word": "embed_tokens"},
        rotary={
            "rope_theta": "rope_theta",
            "partial_rotary_factor": "partial_rotary_factor",
        },
        turned_share=0.5,
        decoder=DecoderFunction(
            final_norm="final_layernorm",
            epsilon="layer_norm_eps",
            parallel=True,
            shared_norm="input_layernorm",
            head_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        ),
    ),
)


_BASE_PREFIXES = (
    *("", "bert.", "roberta.", "electra.", "distilbert.", "mpnet.", "deberta.", "albert."),
    *("model.", "transformer.", "gpt_neox."),
)


_MORE_THAN_TEXT = {
    "gemma3": (
        "A model of type 'gemma3' reads images beside text, which is not built here: take its text "
        "part with transformers (whole = Gemma3ForConditionalGeneration.from_pretrained(MODEL); "
        "part = Gemma3ForCausalLM(whole.config.text_config); part.model, part.lm_head = "
        "whole.model.language_model, whole.lm_head; part.save_pretrained(FOLDER)), and give that "
        "folder with the tokenizer's files in it."
    ),
}
"""Why models are refused of which a part could be built, and how to come by it."""


_SETTINGS = {
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "hidden_size": ("hidden_size", "dim", "n_embd"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
    "num_experts": ("num_local_experts", "num_experts"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner"),
}
"""The names that families give to one setting."""
TRAINED_LENGTH = "original_max_position_embeddings"
"""The setting for the length that a model was trained on before its positions were stretched."""
BY_LAYER = ("layer_types", "no_rope_layers")
"""Settings that are lists with an entry for each layer."""


def known_model_types() -> list[str]:
    """Every `model_type` that the list of families describes."""
    return sorted(name for family in FAMILIES for name in family.model_types)


def gguf_model_types() -> list[str]:
    """Every architecture whose GGUF files can be read."""
    return sorted(name for family in FAMILIES if family.in_gguf for name in family.model_types)


def is_causal(config: Mapping[str, Any]) -> bool:
    """Whether a token of a model sees only those before it; of unknown families it is not known."""
    model_type = str(config.get("model_type"))
    return any(
        family.causal and not reads_both_ways(config, family)
        for family in FAMILIES
        if model_type in family.model_types
    )


def reads_both_ways(config: Mapping[str, Any], family: Family) -> bool:
    """Whether tokens of a model see those after them too, in a family where they else do not."""
    return bool(family.bidirectional and config.get(family.bidirectional))


def find_family(model_type: str) -> Family:
    """The family of a configuration's `model_type`.

    Raises:
        UserError: no family is known by that name.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    if model_type in _MORE_THAN_TEXT:
        raise UserError(_MORE_THAN_TEXT[model_type])
    raise UserError(
        f"Models of type {model_type!r} are not known here; "
        f"these are: {', '.join(known_model_types())}."
    )


def num_heads(config: Mapping[str, Any]) -> int:
    """Attention heads of a layer before anything was cut."""
    return _setting(config, "num_attention_heads")


def head_dim(config: Mapping[str, Any]) -> int:
    """Values of a head."""
    return int(config.get("head_dim") or hidden_size(config) // num_heads(config))


def query_rows(config: Mapping[str, Any]) -> int:
    """Values of all heads of a layer before anything was cut."""
    return num_heads(config) * head_dim(config)


def hidden_size(config: Mapping[str, Any]) -> int:
    """Width of the residual stream."""
    return _setting(config, "hidden_size")


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence that the model takes, in tokens."""
    longest = _setting(config, "max_position_embeddings", 512) - position_offset(config)
    return min(longest, short_length(config) or longest)


def trained_length(config: Mapping[str, Any]) -> int | None:
    """The length that a model was trained on before its positions were stretched, if stated."""
    stretched = config.get("rope_scaling") or {}
    return config.get(TRAINED_LENGTH) or stretched.get(TRAINED_LENGTH)


def short_length(config: Mapping[str, Any]) -> int | None:
    """The tokens up to which longrope's short factors turn a text's positions, where longer texts
    have others; a graph holds one set of angles, so that these are the longest that are taken."""
    stretched = config.get("rope_scaling") or {}
    kind = stretched.get("rope_type", stretched.get("type"))
    return trained_length(config) if kind == "longrope" else None


def position_offset(config: Mapping[str, Any]) -> int:
    """The row of the position table that a text's first token reads; where that is not 0, padding
    has the id before it and its own row."""
    family = find_family(str(config.get("model_type", "")))
    if family.padded_positions and config.get("pad_token_id") is not None:
        return int(config["pad_token_id"]) + 1
    return family.position_offset


_UNTYPED = (
    *("tokenizersbackend", "pretrainedtokenizer", "albert", "bertgeneration", "bigbird"),
    *("camembert", "distilbert", "mpnet", "rembert", "roberta", "xlmroberta"),
)
"""The beginnings of the classes of tokenizers, or of their models' types, by which transformers 5
tells a model nothing of token types."""


def tells_token_types(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer tells a model of which of a pair's texts each token is.

    Args:
        tokenizer: the contents of tokenizer_config.json, which may say so; else its class does.
        config: the model's, whose type stands for a class that is not named.
    """
    if isinstance(names := tokenizer.get("model_input_names"), list):
        return "token_type_ids" in names
    kind = tokenizer.get("tokenizer_class") or config.get("model_type")
    return not re.sub("[_-]", "", str(kind).lower()).startswith(_UNTYPED)


def with_assumed(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A configuration that states what it means by what it leaves out, layer_types among it."""
    config = {**family.assumed, **config}
    layers = stated(config, "num_hidden_layers")[1]
    if family.window_pattern and layers and config.get("layer_types") is None:
        setting, default, first = family.window_pattern
        step = config.get(setting, default) if setting else default
        config["layer_types"] = [
            "sliding_attention" if (layer - first) % step else "full_attention"
            for layer in range(layers)
        ]
    return config


def with_layers(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The settings of a configuration that change once only the layers `kept` are left."""
    counts = [name for name in _SETTINGS["num_hidden_layers"] if name in config]
    changed: dict[str, Any] = dict.fromkeys(counts, len(kept))
    for name in BY_LAYER:
        if config.get(name):
            changed[name] = [config[name][layer] for layer in kept]
    if step := config.get("decoder_sparse_step"):  # every `step`-th layer has experts
        dense = set(config.get("mlp_only_layers") or ())
        dense |= {layer for layer in kept if (layer + 1) % step}
        changed["mlp_only_layers"] = [n for n, layer in enumerate(kept) if layer in dense]
        changed["decoder_sparse_step"] = 1
    return changed


def with_experts(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The settings of a configuration that change once every mixture has `count` experts."""
    return {name: count for name in _SETTINGS["num_experts"] if name in config}


def stated(config: Mapping[str, Any], name: str) -> tuple[str, int | None]:
    """The family's name for a setting of a configuration, and its value; None where not stated."""
    keys = _SETTINGS.get(name, (name,))
    key = next((key for key in keys if config.get(key) is not None), keys[0])
    return key, config.get(key)


def _setting(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    _, value = stated(config, name)
    if value is None:
        value = default
    if value is None:
        raise UserError(f"config.json does not say {' or '.join(_SETTINGS[name])}.")
    return int(value)
