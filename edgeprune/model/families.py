"""One list of families: what differs between them, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgeprune.base.errors import UserError
from edgeprune.model.decoder_function import DecoderFunction

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fused:
    """Query, key and value stored as one weight, which loading takes apart into linears of their
    own: `query`, `key` and `value` below its path."""

    path: str
    interleaved: bool
    """Rows are (query, key, value) of head 0, of head 1...; not all queries, all keys, all values.
    """


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
class DistanceBias:
    """A bias that is added to the scores of two tokens by their distance: near ones have a row of
    the table each, further ones share rows on a logarithmic scale (Raffel et al., 2020, section
    2.1), half of them for tokens before and half for those after. A column for each original
    head."""

    table: str
    buckets: int
    furthest: int
    """The distance from which on all share the last row."""


HeadLayers = tuple[tuple[str, str | None], ...]
"""Linears one after the other, each with the activation after it."""


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
    """Attributes to set when heads leave: head count, heads x head size, or heads per key head."""
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
    """Settings of rotary positions, rope_theta and perhaps partial_rotary_factor, by the names
    that the family gives them; none where it has no such positions."""
    ties: bool = False
    """Whether embeddings and a decoder's head are one where the configuration does not say."""
    in_gguf: bool = False
    """Whether GGUF files of the family can be read."""
    fused: Fused | None = None
    depth_scaled: str | None = None
    """The setting by which layer i, from 0, divides its attention scores by i + 1; loading folds
    that into the queries."""
    transposed: bool = False
    """Stored weights of the layers are (inputs, outputs); loading turns them."""
    norms_first: str | None = None
    """The setting by which norms stand before what reads them; None where they always do."""
    norm_offset: float = 0.0
    """The number that a norm adds to its stored weight."""
    experts: ExpertPaths | None = None
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
        fused=Fused("attn.c_attn", interleaved=False),
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
        fused=Fused("attention.query_key_value", interleaved=True),
        in_files={"embed_out.": "lm_head."},
        rotary={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
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
    *("", "bert.", "roberta.", "electra.", "distilbert.", "mpnet."),
    *("model.", "transformer.", "gpt_neox."),
)


_SETTINGS = {
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "hidden_size": ("hidden_size", "dim", "n_embd"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
    "num_experts": ("num_local_experts", "num_experts"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner"),
}
"""The names that families give to one setting."""


def known_model_types() -> list[str]:
    """Every `model_type` that the list of families describes."""
    return sorted(name for family in FAMILIES for name in family.model_types)


def gguf_model_types() -> list[str]:
    """Every architecture whose GGUF files can be read."""
    return sorted(name for family in FAMILIES if family.in_gguf for name in family.model_types)


def is_causal(model_type: str) -> bool:
    """Whether a token of a model sees only those before it; of unknown families it is not known."""
    return any(family.causal for family in FAMILIES if model_type in family.model_types)


def find_family(model_type: str) -> Family:
    """The family of a configuration's `model_type`.

    Raises:
        UserError: no family is known by that name.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    raise UserError(
        f"Models of type {model_type!r} are not known here; "
        f"these are: {', '.join(known_model_types())}."
    )


def num_heads(config: Mapping[str, Any]) -> int:
    """Attention heads of a layer before anything was cut."""
    return _setting(config, "num_attention_heads")


def hidden_size(config: Mapping[str, Any]) -> int:
    """Width of the residual stream."""
    return _setting(config, "hidden_size")


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence that the model takes, in tokens."""
    return _setting(config, "max_position_embeddings", 512) - position_offset(config)


def position_offset(config: Mapping[str, Any]) -> int:
    """The row of the position table that a text's first token reads; where that is not 0, padding
    has the id before it and its own row."""
    family = find_family(str(config.get("model_type", "")))
    if family.padded_positions and config.get("pad_token_id") is not None:
        return int(config["pad_token_id"]) + 1
    return family.position_offset


def with_layers(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The settings of a configuration that change once only the layers `kept` are left."""
    counts = [name for name in _SETTINGS["num_hidden_layers"] if name in config]
    changed: dict[str, Any] = dict.fromkeys(counts, len(kept))
    if config.get("layer_types"):
        changed["layer_types"] = [config["layer_types"][layer] for layer in kept]
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
