"""The parts of a transformer, per family, as data.

A model is described from its configuration and the shapes of its tensors alone, so that a dry run
or a device can do it without torch. Every other file speaks of blocks, attention and feed-forward
and never of an architecture's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.model.distances import Distances, read_distances
from edgeprune.model.families import BASE_PREFIXES, find_family
from edgeprune.model.family import Family, Shape
from edgeprune.model.settings import (
    head_dim,
    hidden_size,
    max_positions,
    query_rows,
    reads_both_ways,
)
from edgeprune.model.tasks import Head, task_of

FUSED_HEADS = 16
"""Of how many values a head must be a multiple for the runtime's operator to attend."""


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
    of_distances: tuple[str, ...] = ()
    """Linears beside these that make keys or queries of distances, a row for each of a head's
    values; they stay in float32."""

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
class Convolution:
    """A short convolution in place of a layer's attention: full module names of its linears, and
    what it keeps of the tokens before."""

    input: str
    output: str
    channels: int
    taps: int
    """Tokens that one reads, itself included, and columns of the cache."""
    norm: str | None = None

    def linears(self) -> dict[str, str]:
        """Full module name -> role, in the order of the data."""
        return {self.input: "input", self.output: "output"}


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
    mixer: Attention | Convolution
    """The part by which its tokens read others."""
    feed_forwards: tuple[FeedForward, ...]
    experts: Experts | None = None

    @property
    def attention(self) -> Attention:
        """The attention of a layer that attends.

        Raises:
            UserError: the layer has a short convolution.
        """
        if isinstance(self.mixer, Convolution):
            raise UserError(
                f"{self.name} is a short convolution, which this does not do: such models are "
                "quantized, exported and run."
            )
        return self.mixer

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
        linears = self.mixer.linears()
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
    repeats: int = 1
    """The times that the blocks run one after the other, each with the same weights."""

    @property
    def prefix(self) -> str:
        """The prefix of the names of the base model's parts, as "bert.", where a head is beside
        it."""
        return self.blocks[0].name.removesuffix(f"{self.family.layers}.0")

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of every layer that attends, in order."""
        mixers = (block.mixer for block in self.blocks)
        return tuple(mixer for mixer in mixers if isinstance(mixer, Attention))

    @property
    def attends(self) -> bool:
        """Whether every layer does; the others have short convolutions."""
        return len(self.attentions) == len(self.blocks)

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it."""
        return self.family.causal

    @property
    def has_cache(self) -> bool:
        """Whether a call keeps the keys and values of its tokens, unless it is told not to."""
        return self.family.has_cache

    @property
    def shared_key_value_heads(self) -> bool:
        """Whether query heads leave one of every key-value head's at a time, and key-value heads
        stay: several read one, or clients size a cache by the configuration."""
        return self.has_cache or any(part.heads_per_group > 1 for part in self.attentions)

    @property
    def reads_both_ways(self) -> bool:
        """Whether these are a decoder's layers in which a token sees those after it too."""
        return self.family.decoder is not None and not self.causal

    @property
    def heads_stay(self) -> bool:
        """Whether no head can leave: a norm over all of a token's heads together would answer
        otherwise without it."""
        function = self.family.decoder
        return function is not None and function.norms_all_heads

    @property
    def reads_token_types(self) -> bool:
        """Whether a token of the second of two texts has another row than one of the first."""
        table = self.embeddings.get("token_type")
        return table is not None and self.shape(table)[0] > 1

    @property
    def head_units(self) -> list[int]:
        """In each layer that attends, the heads that can leave one by one."""
        shared = self.shared_key_value_heads
        return [part.heads_per_group if shared else part.num_heads for part in self.attentions]

    @property
    def head(self) -> str | None:
        """The linear that yields a logit for each token of the vocabulary; None where there is
        none."""
        return self.family.head if self.family.head in self.head_linears else None

    @property
    def generates(self) -> bool:
        """Whether it writes text token by token: it has that linear, and keeps a cache."""
        return self.has_cache and self.head is not None

    @property
    def shared_weights(self) -> dict[str, str]:
        """The module whose weight is another module's, and that module: a tied head."""
        tied = self.tied_embeddings and self.head is not None
        return {str(self.head): self.embeddings["word"]} if tied else {}

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
    if reads_both_ways(config, family):
        family = replace(family, causal=False, has_cache=False)
    shapes = _plain(family, config, shapes)
    prefix = _base_prefix(family, shapes)
    distances = read_distances(config, family)
    blocks = []
    for index in range(_count_layers(f"{prefix}{family.layers}", shapes)):
        layer = f"{prefix}{family.layers}.{index}"
        experts = _experts(family, layer, config, shapes)
        blocks.append(
            Block(
                index=index,
                name=layer,
                mixer=_mixer(family, layer, shapes, head_dim(config), distances),
                feed_forwards=_feed_forwards(family, layer, shapes, experts),
                experts=experts,
            )
        )
    embeddings = {
        role: prefix + path
        for role, path in family.embeddings.items()
        if role == "word" or f"{prefix}{path}.weight" in shapes
        if config.get(family.optional_tables.get(role, ""), True)
    }
    for name in (*embeddings.values(), *(name for block in blocks for name in block.linears())):
        _shape(shapes, name)
    head = task_of(config).head
    tied = head == "vocabulary" and bool(config.get("tie_word_embeddings", family.ties))
    return Anatomy(
        family=family,
        model_type=model_type,
        blocks=tuple(blocks),
        embeddings=embeddings,
        head_linears=_head_linears(family, prefix, embeddings, shapes, tied, head),
        tied_embeddings=tied,
        hidden_size=hidden_size(config),
        max_positions=max_positions(config),
        shapes=_with_tied_head(family, shapes, embeddings, tied),
        repeats=_repeats(family, config),
    )


def _repeats(family: Family, config: Mapping[str, Any]) -> int:
    if family.repeats is None:
        return 1
    if config.get(family.repeats) is None:
        raise UserError(f"config.json does not say {family.repeats}.")
    return int(config[family.repeats])


def _plain(
    family: Family, config: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> Mapping[str, Shape]:
    """Names and shapes as they are once a model was read, and fused, stacked and transposed weights
    were made plain linears."""
    plain: dict[str, Shape] = {}
    for name, shape in shapes.items():
        for part, called in family.in_files.items():
            name = name.replace(part, called)
        plain[name] = shape
    return _unstacked(family, _unfused(family, query_rows(config), plain))


def _unfused(family: Family, queries: int, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    stored = [
        fused
        for fused in family.fused
        if any(name.endswith(f".{fused.path}.weight") for name in shapes)
    ]
    if not stored:
        return shapes
    paths = [fused.path for fused in stored]
    turned = (*paths, family.output, family.up, family.down) if family.transposed else ()
    plain: dict[str, Shape] = {}
    for name, shape in shapes.items():
        path, _, kind = name.rpartition(".")
        if kind == "weight" and path.endswith(tuple(f".{part}" for part in turned)):
            shape = shape[::-1]
        fused = next((each for each in stored if path.endswith(f".{each.path}")), None)
        if fused is None or kind not in ("weight", "bias") or not shape:
            plain[name] = shape
            continue
        for part, rows in fused.sizes(shape[0], queries).items():
            plain[f"{path}.{part}.{kind}"] = (rows, *shape[1:])
    return plain


def _unstacked(family: Family, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    paths = family.experts
    if paths is None:
        return shapes
    gate_up, down = (f".{paths.experts}.{name}" for name in paths.stacked)
    plain: dict[str, Shape] = {}
    for name, shape in shapes.items():
        parts: dict[str, int] = {}
        if len(shape) == 3 and name.endswith(gate_up):
            parts = {paths.gate: shape[1] // 2, paths.up: shape[1] // 2}
        elif len(shape) == 3 and name.endswith(down):
            parts = {paths.down: shape[1]}
        if not parts:
            plain[name] = shape
            continue
        path, _, _ = name.rpartition(".")
        for number in range(shape[0]):
            for part, rows in parts.items():
                plain[f"{path}.{number}.{part}.weight"] = (rows, shape[2])
    return plain


def _mixer(
    family: Family,
    layer: str,
    shapes: Mapping[str, Shape],
    head_dim: int,
    distances: Distances | None,
) -> Attention | Convolution:
    paths = family.convolution
    kernel = shapes.get(f"{layer}.{paths.kernel}.weight") if paths else None
    if paths is None or kernel is None:
        return _attention(family, layer, shapes, head_dim, distances)
    if len(kernel) != 3:
        raise UserError(f"{layer}.{paths.kernel}.weight does not hold taps of channels.")
    return Convolution(
        input=f"{layer}.{paths.input}",
        output=f"{layer}.{paths.output}",
        channels=kernel[0],
        taps=kernel[-1],
        norm=f"{layer}.{family.attention_norm}" if family.attention_norm else None,
    )


def _attention(
    family: Family,
    layer: str,
    shapes: Mapping[str, Shape],
    head_dim: int,
    distances: Distances | None,
) -> Attention:
    query, key = f"{layer}.{family.query}", f"{layer}.{family.key}"
    of_distances = (distances.key, distances.query) if distances else ()
    return Attention(
        query=query,
        key=key,
        value=f"{layer}.{family.value}",
        output=f"{layer}.{family.output}",
        num_heads=_shape(shapes, query)[0] // head_dim,
        num_key_value_heads=_shape(shapes, key)[0] // head_dim,
        head_dim=head_dim,
        module=f"{layer}.{family.attention}",
        norm=_norm(f"{layer}.{family.attention_norm}", shapes) if family.attention_norm else None,
        of_distances=tuple(
            f"{layer}.{path}"
            for path in of_distances
            if path is not None and path not in (family.query, family.key)
        ),
    )


def _norm(name: str, shapes: Mapping[str, Shape]) -> str | None:
    """A norm, where it has weights."""
    return name if f"{name}.weight" in shapes else None


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
    norm = (
        _norm(f"{layer}.{family.feed_forward_norm}", shapes) if family.feed_forward_norm else None
    )

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
    first = [family.query, *([family.convolution.input] if family.convolution else [])]
    for prefix in BASE_PREFIXES:
        if any(f"{prefix}{family.layers}.0.{path}.weight" in shapes for path in first):
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
    head: Head | None,
) -> tuple[str, ...]:
    """Linears outside the blocks: a pooler, a classifier, or what yields a decoder's logits or a
    masked token's."""
    if head is None:
        return ()  # a file may hold a pooler or a language model's head, which no embedding reads
    inside = f"{prefix}{family.layers}."
    embeddings = f"{prefix}embeddings."
    function = family.encoder or family.decoder
    known = {"vocabulary": "word_head", "span": "span_head"}.get(head)
    if layers := getattr(function, known) if known and function is not None else ():
        return tuple(
            path
            for path, _ in layers
            if len(shapes.get(f"{path}.weight", ())) == 2 or (tied and path == family.head)
        )
    names = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and not name.startswith((inside, embeddings))
        and name.removesuffix(".weight") not in tables.values()
        and "relative_attention_bias" not in name
        and not (family.disentangled and name == f"{prefix}{family.disentangled.table}.weight")
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
