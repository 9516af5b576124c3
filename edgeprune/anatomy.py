"""What a transformer is made of, per family, as data: the one list of families.

A model is described from its configuration and the shapes of its tensors alone, so that a dry run
or a device can do it without torch. Every other file speaks of blocks, attention and feed-forward
and never of an architecture's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgeprune.errors import UserError

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
    """Where a mixture-of-experts layer keeps its parts; a layer may also be dense."""

    module: str
    """What routes tokens to experts."""
    router: str
    experts: str
    """The list of experts; `gate`, `up` and `down` are relative to each."""
    gate: str
    up: str
    down: str
    shared: str | None = None
    """A feed-forward beside the experts that reads every token."""
    normalized: str | None = None
    """The setting by which a token's chosen weights sum to 1; None where they always do."""


@dataclass(frozen=True)
class Family:
    """Where one family of architectures keeps its parts; paths are relative to a layer."""

    model_types: tuple[str, ...]
    kind: Literal["encoder", "decoder"]
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
    """What a norm adds to its stored weight."""
    experts: ExpertPaths | None = None
    head: str = "lm_head"
    """The linear that yields a decoder's logits."""


_BERT = Family(
    model_types=("bert", "electra"),
    kind="encoder",
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
)

_LLAMA = Family(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    kind="decoder",
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
)

FAMILIES: tuple[Family, ...] = (
    _BERT,
    replace(
        _BERT,
        model_types=("roberta", "xlm-roberta"),
        position_offset=2,
        padded_positions=True,
    ),
    Family(
        model_types=("distilbert",),
        kind="encoder",
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
    ),
    Family(
        model_types=("mpnet",),
        kind="encoder",
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
    ),
    replace(_LLAMA, in_gguf=True),
    replace(_LLAMA, model_types=("gemma",), norm_offset=1.0, ties=True),
    replace(
        _LLAMA,
        model_types=("mixtral",),
        experts=ExpertPaths(
            module="block_sparse_moe",
            router="block_sparse_moe.gate",
            experts="block_sparse_moe.experts",
            gate="w1",
            up="w3",
            down="w2",
        ),
    ),
    replace(
        _LLAMA,
        model_types=("qwen2_moe", "qwen3_moe"),
        experts=ExpertPaths(
            module="mlp",
            router="mlp.gate",
            experts="mlp.experts",
            gate="gate_proj",
            up="up_proj",
            down="down_proj",
            shared="mlp.shared_expert",
            normalized="norm_topk_prob",
        ),
    ),
    Family(
        model_types=("gpt2",),
        kind="decoder",
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
    ),
    Family(
        model_types=("opt",),
        kind="decoder",
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
    ),
    Family(
        model_types=("gpt_neox",),
        kind="decoder",
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
        head="embed_out",
        rotary={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    ),
    Family(
        model_types=("phi",),
        kind="decoder",
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


FUSED_HEADS = 16
"""A head must have a multiple of so many values for the runtime's operator to take the attention
as one."""


@dataclass(frozen=True)
class Attention:
    """One layer's attention: full module names of its projections, and its head counts."""

    query: str
    key: str
    value: str
    output: str
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    module: str
    norm: str | None = None

    @property
    def heads_per_group(self) -> int:
        """Query heads that read one key-value head."""
        return self.num_heads // self.num_key_value_heads

    def linears(self) -> dict[str, str]:
        """Full module name -> role, in the order of the data."""
        return {
            self.query: "query",
            self.key: "key",
            self.value: "value",
            self.output: "output",
        }


@dataclass(frozen=True)
class FeedForward:
    """One layer's feed-forward: full module names of its linears, and its channel count."""

    up: str
    down: str
    gate: str | None
    channels: int
    norm: str | None = None

    def linears(self) -> dict[str, str]:
        """Full module name -> role, in the order of the data."""
        gate = {self.gate: "gate"} if self.gate else {}
        return {**gate, self.up: "up", self.down: "down"}


@dataclass(frozen=True)
class Experts:
    """One layer's mixture of experts: the module that routes, its router, and how many there are.

    They are the first of the block's feed-forwards; one that reads every token may follow.
    """

    module: str
    router: str
    path: str
    count: int
    active: int
    """Experts that a token is given to."""
    normalized: bool
    """Whether a token's chosen weights sum to 1."""


@dataclass(frozen=True)
class Block:
    """One transformer layer."""

    index: int
    name: str
    attention: Attention
    feed_forwards: tuple[FeedForward, ...]
    experts: Experts | None = None

    @property
    def feed_forward(self) -> FeedForward:
        """The feed-forward of a dense layer.

        Raises:
            UserError: the layer is a mixture of experts.
        """
        if self.experts is not None:
            raise UserError(
                f"{self.name} is a mixture of {self.experts.count} experts, which this does not "
                "do; cut.experts, cut.channels without compensation and cut.layers do."
            )
        return self.feed_forwards[0]

    def linears(self) -> dict[str, str]:
        """Full module name -> role of every linear but a router, in the order of the data."""
        linears = self.attention.linears()
        for part in self.feed_forwards:
            linears |= part.linears()
        return linears


@dataclass(frozen=True)
class Anatomy:
    """A whole model: its blocks in order, its embeddings, and the linears outside the blocks."""

    family: Family
    model_type: str
    blocks: tuple[Block, ...]
    embeddings: dict[str, str]
    head_linears: tuple[str, ...]
    tied_embeddings: bool
    hidden_size: int
    max_positions: int
    """The longest sequence that the model takes, in tokens."""
    shapes: Mapping[str, Shape] = field(repr=False)

    @property
    def kind(self) -> Literal["encoder", "decoder"]:
        """Whether the model reads text at once or writes it token by token."""
        return self.family.kind

    @property
    def head(self) -> str | None:
        """The linear that yields a decoder's logits; None for encoders."""
        return self.family.head if self.family.head in self.head_linears else None

    def block_linears(self) -> dict[str, str]:
        """Full module name -> role of every linear inside the blocks."""
        linears: dict[str, str] = {}
        for block in self.blocks:
            linears |= block.linears()
        return linears

    @property
    def feed_forwards(self) -> tuple[FeedForward, ...]:
        """Every feed-forward in order: one a layer, or a layer's experts."""
        return tuple(part for block in self.blocks for part in block.feed_forwards)

    def linears(self) -> dict[str, str]:
        """Full module name -> role of every linear, heads of the model included."""
        return self.block_linears() | dict.fromkeys(self.head_linears, "head")

    def shape(self, linear: str) -> tuple[int, int]:
        """(outputs, inputs) of a linear, or (rows, width) of an embedding."""
        rows, columns = self.shapes[f"{linear}.weight"]
        return rows, columns


def known_model_types() -> list[str]:
    """Every `model_type` that the list of families describes."""
    return sorted(name for family in FAMILIES for name in family.model_types)


def gguf_model_types() -> list[str]:
    """Every architecture whose GGUF files can be read."""
    return sorted(name for family in FAMILIES if family.in_gguf for name in family.model_types)


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


def describe(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Anatomy:
    """Describe a model from its configuration and the shapes of its tensors.

    Args:
        config: the contents of config.json.
        shapes: tensor name -> shape, as in a safetensors header or a state dict. Layers may differ
            in size: every count is read off the shapes.

    Raises:
        UserError: the family is unknown, or a tensor that it must have is missing.
    """
    model_type = str(config.get("model_type", ""))
    family = find_family(model_type)
    if family.norms_first and not config.get(family.norms_first, True):
        family = replace(family, attention_norm=None, feed_forward_norm=None)
    shapes = _plain(family, shapes)
    prefix = _base_prefix(family, shapes)
    head_dim = config.get("head_dim") or hidden_size(config) // num_heads(config)
    blocks = []
    for index in range(_count_layers(f"{prefix}{family.layers}", shapes)):
        layer = f"{prefix}{family.layers}.{index}"
        experts = _experts(family, layer, config, shapes)
        blocks.append(
            Block(
                index=index,
                name=layer,
                attention=_attention(family, layer, shapes, int(head_dim)),
                feed_forwards=_feed_forwards(family, layer, shapes, experts),
                experts=experts,
            )
        )
    embeddings = {
        role: prefix + path
        for role, path in family.embeddings.items()
        if role == "word" or f"{prefix}{path}.weight" in shapes
    }
    for name in (*embeddings.values(), *(name for block in blocks for name in block.linears())):
        _shape(shapes, name)
    task = task_of(config)
    tied = task == "text-generation" and bool(config.get("tie_word_embeddings", family.ties))
    return Anatomy(
        family=family,
        model_type=model_type,
        blocks=tuple(blocks),
        embeddings=embeddings,
        head_linears=_head_linears(family, prefix, embeddings, shapes, tied, task),
        tied_embeddings=tied,
        hidden_size=hidden_size(config),
        max_positions=max_positions(config),
        shapes=_with_tied_head(family, shapes, embeddings, tied),
    )


_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def task_of(config: Mapping[str, Any]) -> str:
    """The pipeline task of a configuration, by the ending of its architecture's class.

    Raises:
        UserError: its head is of a kind that would be lost.
    """
    architecture = (config.get("architectures") or [""])[0]
    if architecture.endswith(_OTHER_HEADS):
        raise UserError(
            f"{architecture} has a head that EdgePrune does not run: it takes sentence encoders, "
            "classifiers of whole texts (ForSequenceClassification) and decoders (ForCausalLM)."
        )
    if architecture.endswith("ForSequenceClassification"):
        return "text-classification"
    kinds = {name: family.kind for family in FAMILIES for name in family.model_types}
    if kinds.get(str(config.get("model_type"))) == "decoder":
        if architecture.endswith(("ForCausalLM", "LMHeadModel")):
            return "text-generation"
    elif architecture.endswith("ForCausalLM"):
        raise UserError(
            f"{architecture} writes text with an encoder's layers, which EdgePrune does not run."
        )
    return "feature-extraction"


def num_heads(config: Mapping[str, Any]) -> int:
    """Attention heads of a layer before anything was cut."""
    return _setting(config, "num_attention_heads")


def hidden_size(config: Mapping[str, Any]) -> int:
    """Width of the residual stream."""
    return _setting(config, "hidden_size")


def max_positions(config: Mapping[str, Any]) -> int:
    """The longest sequence that the model takes, in tokens."""
    family = find_family(str(config.get("model_type", "")))
    offset = family.position_offset
    if family.padded_positions and config.get("pad_token_id") is not None:
        offset = config["pad_token_id"] + 1
    return _setting(config, "max_position_embeddings", 512) - offset


def with_layers(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """What a configuration says otherwise once only the layers `kept` are left."""
    counts = [name for name in _SETTINGS["num_hidden_layers"] if name in config]
    changed: dict[str, Any] = dict.fromkeys(counts, len(kept))
    if config.get("layer_types"):
        changed["layer_types"] = [config["layer_types"][layer] for layer in kept]
    if step := config.get("decoder_sparse_step"):  # one in so many layers has experts
        dense = set(config.get("mlp_only_layers") or ())
        dense |= {layer for layer in kept if (layer + 1) % step}
        changed["mlp_only_layers"] = [n for n, layer in enumerate(kept) if layer in dense]
        changed["decoder_sparse_step"] = 1
    return changed


def with_experts(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """What a configuration says otherwise once every mixture has `count` experts."""
    return {name: count for name in _SETTINGS["num_experts"] if name in config}


def stated(config: Mapping[str, Any], name: str) -> tuple[str, int | None]:
    """What a configuration says of a setting, under the name that its family has for it."""
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


def _plain(family: Family, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Shapes as they are once fused and transposed weights were made plain linears."""
    fused = family.fused
    if fused is None or not any(name.endswith(f".{fused.path}.weight") for name in shapes):
        return shapes
    turned = (fused.path, family.output, family.up, family.down) if family.transposed else ()
    plain: dict[str, Shape] = {}
    for name, shape in shapes.items():
        path, _, kind = name.rpartition(".")
        if kind == "weight" and path.endswith(tuple(f".{part}" for part in turned)):
            shape = shape[::-1]
        if path.endswith(f".{fused.path}") and kind in ("weight", "bias"):
            third = (*(rows // 3 for rows in shape[:1]), *shape[1:])
            plain |= {f"{path}.{part}.{kind}": third for part in ("query", "key", "value")}
        else:
            plain[name] = shape
    return plain


def _attention(family: Family, layer: str, shapes: Mapping[str, Shape], head_dim: int) -> Attention:
    query, key = f"{layer}.{family.query}", f"{layer}.{family.key}"
    return Attention(
        query=query,
        key=key,
        value=f"{layer}.{family.value}",
        output=f"{layer}.{family.output}",
        num_heads=_shape(shapes, query)[0] // head_dim,
        num_key_value_heads=_shape(shapes, key)[0] // head_dim,
        head_dim=head_dim,
        module=f"{layer}.{family.attention}",
        norm=f"{layer}.{family.attention_norm}" if family.attention_norm else None,
    )


def _experts(
    family: Family, layer: str, config: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> Experts | None:
    paths = family.experts
    if paths is None or f"{layer}.{paths.router}.weight" not in shapes:
        return None
    path = f"{layer}.{paths.experts}"
    return Experts(
        module=f"{layer}.{paths.module}",
        router=f"{layer}.{paths.router}",
        path=path,
        count=_count_layers(path, shapes),
        active=int(config["num_experts_per_tok"]),
        normalized=paths.normalized is None or bool(config.get(paths.normalized)),
    )


def _feed_forwards(
    family: Family, layer: str, shapes: Mapping[str, Shape], experts: Experts | None
) -> tuple[FeedForward, ...]:
    norm = f"{layer}.{family.feed_forward_norm}" if family.feed_forward_norm else None

    def part(path: str, up: str, down: str, gate: str | None) -> FeedForward:
        return FeedForward(
            up=f"{path}.{up}",
            down=f"{path}.{down}",
            gate=f"{path}.{gate}" if gate else None,
            channels=_shape(shapes, f"{path}.{up}")[0],
            norm=norm,
        )

    paths = family.experts
    if experts is None or paths is None:
        return (part(layer, family.up, family.down, family.gate),)
    places = [f"{experts.path}.{number}" for number in range(experts.count)]
    if paths.shared and f"{layer}.{paths.shared}.{paths.up}.weight" in shapes:
        places.append(f"{layer}.{paths.shared}")
    return tuple(part(place, paths.up, paths.down, paths.gate) for place in places)


def _shape(shapes: Mapping[str, Shape], linear: str) -> Shape:
    shape = shapes.get(f"{linear}.weight", ())
    if len(shape) != 2:
        raise UserError(
            f"The model has no matrix {linear}.weight; its files are not a whole model of its type."
        )
    return shape


def _base_prefix(family: Family, shapes: Mapping[str, Shape]) -> str:
    for prefix in _BASE_PREFIXES:
        if f"{prefix}{family.layers}.0.{family.query}.weight" in shapes:
            return prefix
    raise UserError(
        f"The model's files hold no layer named {family.layers}.0.{family.query}; "
        "they are not a whole model of the type that config.json names."
    )


def _count_layers(path: str, shapes: Mapping[str, Shape]) -> int:
    found = {name[len(path) + 1 :].split(".")[0] for name in shapes if name.startswith(f"{path}.")}
    return len(found)


def _head_linears(
    family: Family,
    prefix: str,
    tables: Mapping[str, str],
    shapes: Mapping[str, Shape],
    tied: bool,
    task: str,
) -> tuple[str, ...]:
    """Linears outside the blocks: a pooler, a classifier, or a decoder's logits."""
    if task == "feature-extraction":
        return ()  # a file may hold a pooler or a language model's head, which no embedding reads
    inside = f"{prefix}{family.layers}."
    embeddings = f"{prefix}embeddings."
    names = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and not name.startswith((inside, embeddings))
        and name.removesuffix(".weight") not in tables.values()
        and "relative_attention_bias" not in name
    ]
    if tied and family.head not in names:
        names.append(family.head)
    return tuple(names)


def _with_tied_head(
    family: Family, shapes: Mapping[str, Shape], embeddings: Mapping[str, str], tied: bool
) -> Mapping[str, Shape]:
    head = f"{family.head}.weight"
    if not tied or head in shapes:
        return shapes
    return {**shapes, head: shapes[f"{embeddings['word']}.weight"]}
