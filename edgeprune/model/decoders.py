"""The function of one decoder's parts: its family's, in the numbers and names of one model. There
is none where a setting asks for what is not written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.model.anatomy import Anatomy
from edgeprune.model.decoder_function import DecoderFunction, HeadLayers
from edgeprune.model.families import find_family


@dataclass(frozen=True)
class Norms:
    """The kind and the constants of a model's norms."""

    root_mean_square: bool
    epsilon: float
    offset: float
    """The number that is added to a stored weight."""


@dataclass(frozen=True)
class Decoder:
    """The function of one decoder's parts; names are full."""

    norms: Norms
    norms_first: bool
    """Norms stand before what reads them, not after the sum with what was read."""
    attention_norms: tuple[str | None, ...]
    """By layer; none where attention reads the states as they are."""
    feed_forward_norms: tuple[str | None, ...]
    """By layer; where attention and feed-forward share one, the same again."""
    answer_norms: tuple[tuple[str, str], ...]
    """By layer, of what attention and feed-forward answer; none where that is added as it is."""
    head_norms: tuple[tuple[str, str], ...]
    """By layer, of queries and keys; none where there are none."""
    norms_all_heads: bool
    """Those norms are over all of a token's heads together."""
    embedding_norm: str | None
    final_norm: str | None
    parallel: bool
    activation: str
    windows: tuple[int | None, ...]
    """By layer, how many tokens a token sees, itself included; None: all before it."""
    turned: tuple[bool, ...]
    """By layer, whether positions turn the heads, where they turn any."""
    score_factor: float | None
    """The factor of scores; None: the usual, if they are scaled."""
    has_cache: bool
    """It writes text token by token; otherwise it answers with the states of all tokens."""
    bidirectional: bool
    """A token sees those after it too, with a window as many as before it."""
    scales_scores: bool
    score_size: float | None
    """By whose root scores are divided; None: a head's size."""
    score_cap: float | None
    """The bound c of scores x that become c tanh(x / c); None: they stay."""
    logits_cap: float | None
    """The same of logits."""
    embedding_scale: float | None
    sum_factor: float | None
    """The factor of what attention and feed-forward answer, before that is added."""
    logit_divisor: float | None
    project_in: str | None
    project_out: str | None
    takes_positions: bool
    label_head: HeadLayers
    token_head: HeadLayers
    word_head: HeadLayers
    span_head: HeadLayers
    label_pooling: str
    """Whether a text's state is that of its first token (cls) or the mean of all (mean)."""


_TYPES = "layer_types"


def read_decoder(config: Mapping[str, Any], anatomy: Anatomy) -> Decoder | None:
    """Read a decoder's function; None for other models, and for settings unknown here. One that
    embeds texts has no head.

    Args:
        config: the contents of config.json, in the words of transformers 4.
    """
    family = find_family(anatomy.model_type)  # the anatomy's leaves out norms that nothing reads
    function = family.decoder
    if function is None:
        return None
    if any(
        config.get(name) is not None and config[name] != value
        for name, value in function.written.items()
    ):
        return None
    stated = function.epsilon
    epsilon = config.get(stated) if isinstance(stated, str) else stated
    activation = config.get(function.activation)
    if epsilon is None or not isinstance(activation, str):
        return None
    if function.turned_layers and not (config.get(function.turned_layers) and config.get(_TYPES)):
        return None
    blocks, base = anatomy.blocks, anatomy.prefix

    def number(setting: str | None) -> float | None:
        stated = config.get(setting) if setting else None
        return float(1 if stated is None else stated) if setting else None

    def inside(path: str | None) -> tuple[str, ...]:
        return tuple(f"{block.name}.{path}" for block in blocks) if path else ()

    def held(path: str | None) -> str | None:
        name = f"{base}{path}"
        return name if path and f"{name}.weight" in anatomy.shapes else None

    norms_first = _is_set(config, family.norms_first or True, True)
    # Where norms follow the sums, the last layer's is the last.
    ends = norms_first and not _is_set(config, function.without_final_norm, False)
    attention_norms: tuple[str | None, ...] = inside(family.attention_norm or function.shared_norm)
    if family.unnormed_first:
        attention_norms = (None, *attention_norms[1:])
    query, key = (inside(path) for path in function.head_norms or (None, None))
    normed = bool(query) and f"{query[0]}.weight" in anatomy.shapes
    attended, fed = (inside(path) for path in function.answer_norms or (None, None))
    bidirectional = anatomy.reads_both_ways
    project_in, project_out = function.projections or (None, None)
    return Decoder(
        norms=Norms(function.root_mean_square, float(epsilon), family.norm_offset),
        norms_first=norms_first,
        attention_norms=attention_norms,
        feed_forward_norms=inside(family.feed_forward_norm) or attention_norms,
        answer_norms=tuple(zip(attended, fed, strict=True)),
        head_norms=tuple(zip(query, key, strict=True)) if normed else (),
        norms_all_heads=function.norms_all_heads,
        embedding_norm=f"{base}{function.embedding_norm}" if function.embedding_norm else None,
        final_norm=f"{base}{function.final_norm}" if ends else None,
        parallel=_is_set(config, function.parallel, True),
        activation=activation,
        windows=_windows(config, function, len(blocks), bidirectional),
        has_cache=anatomy.generates,
        bidirectional=bidirectional,
        turned=_turned(config, function.turned_layers, len(blocks)),
        scales_scores=_is_set(config, function.scales_scores, True),
        score_factor=number(function.score_factor),
        score_size=_number(config, function.score_size),
        score_cap=_number(config, function.score_cap),
        logits_cap=_number(config, function.logits_cap),
        embedding_scale=(
            anatomy.hidden_size**0.5
            if function.scales_embeddings
            else number(function.embedding_factor)
        ),
        sum_factor=number(function.sum_factor),
        logit_divisor=number(function.logit_divisor),
        project_in=held(project_in),
        project_out=held(project_out),
        takes_positions=function.takes_positions,
        label_head=function.label_head,
        token_head=function.token_head,
        word_head=function.word_head,
        span_head=function.span_head,
        label_pooling=str(config.get(function.label_pooling or "", "cls")),
    )


def _is_set(config: Mapping[str, Any], fact: str | bool, default: bool) -> bool:
    """A fact that may be a setting's name."""
    return bool(config.get(fact, default)) if isinstance(fact, str) else fact


def _number(config: Mapping[str, Any], setting: str | None) -> float | None:
    """A setting's value; None where it has none."""
    value = config.get(setting) if setting else None
    return None if value is None else float(value)


def _turned(config: Mapping[str, Any], setting: str | None, layers: int) -> tuple[bool, ...]:
    return tuple(map(bool, config[setting][:layers])) if setting else (True,) * layers


def _windows(
    config: Mapping[str, Any], function: DecoderFunction, layers: int, bidirectional: bool
) -> tuple[int | None, ...]:
    """Each layer's window, as transformers reads it off the settings. One that goes both ways is
    stated by its width, and is half as far to either side."""
    kind, window = function.windows, config.get(function.window)
    if window and bidirectional:
        window = window // 2 + 1
    if kind is None or not window or not config.get("use_sliding_window", True):
        return (None,) * layers
    if kind == "every layer":
        return (window,) * layers
    types = config.get(_TYPES)
    if not types:
        first = config.get("max_window_layers", 0)
        types = ["sliding_attention" if layer >= first else "" for layer in range(layers)]
    return tuple(window if each == "sliding_attention" else None for each in types)
