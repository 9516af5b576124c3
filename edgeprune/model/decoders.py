"""The function of one decoder's parts: its family's, in the numbers and names of one model. There
is none where a setting asks for what is not written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.model.anatomy import Anatomy
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
    attention_norms: tuple[str, ...]
    """By layer."""
    feed_forward_norms: tuple[str, ...]
    """By layer; where attention and feed-forward share one, the same again."""
    head_norms: tuple[tuple[str, str], ...]
    """By layer, of queries and keys; none where there are none."""
    final_norm: str | None
    parallel: bool
    activation: str
    windows: tuple[int | None, ...]
    """By layer, how many tokens a token sees, itself included; None: all before it."""
    scales_scores: bool
    embedding_scale: float | None
    project_in: str | None
    project_out: str | None
    takes_positions: bool


def read_decoder(config: Mapping[str, Any], anatomy: Anatomy) -> Decoder | None:
    """Read a decoder's function; None for other models, and for settings unknown here.

    Args:
        config: the contents of config.json, in the words of transformers 4.
    """
    family = find_family(anatomy.model_type)  # the anatomy's leaves out norms that nothing reads
    function = family.decoder
    if function is None or anatomy.head is None:
        return None
    if any(config.get(name, value) != value for name, value in function.written.items()):
        return None
    stated = function.epsilon
    epsilon = config.get(stated) if isinstance(stated, str) else stated
    activation = config.get(function.activation)
    if epsilon is None or not isinstance(activation, str):
        return None
    blocks, base = anatomy.blocks, anatomy.prefix

    def inside(path: str | None) -> tuple[str, ...]:
        return tuple(f"{block.name}.{path}" for block in blocks) if path else ()

    def held(path: str | None) -> str | None:
        name = f"{base}{path}"
        return name if path and f"{name}.weight" in anatomy.shapes else None

    norms_first = _is_set(config, family.norms_first or True, True)
    # Where norms follow the sums, the last layer's is the last.
    ends = norms_first and not _is_set(config, function.without_final_norm, False)
    attention_norms = inside(family.attention_norm or function.shared_norm)
    query, key = (inside(path) for path in function.head_norms or (None, None))
    normed = bool(query) and f"{query[0]}.weight" in anatomy.shapes
    project_in, project_out = function.projections or (None, None)
    return Decoder(
        norms=Norms(function.root_mean_square, float(epsilon), family.norm_offset),
        norms_first=norms_first,
        attention_norms=attention_norms,
        feed_forward_norms=inside(family.feed_forward_norm) or attention_norms,
        head_norms=tuple(zip(query, key, strict=True)) if normed else (),
        final_norm=f"{base}{function.final_norm}" if ends else None,
        parallel=_is_set(config, function.parallel, True),
        activation=activation,
        windows=_windows(config, function.windows, len(blocks)),
        scales_scores=_is_set(config, function.scales_scores, True),
        embedding_scale=anatomy.hidden_size**0.5 if function.scales_embeddings else None,
        project_in=held(project_in),
        project_out=held(project_out),
        takes_positions=function.takes_positions,
    )


def _is_set(config: Mapping[str, Any], fact: str | bool, default: bool) -> bool:
    """A fact that may be a setting's name."""
    return bool(config.get(fact, default)) if isinstance(fact, str) else fact


def _windows(config: Mapping[str, Any], kind: str | None, layers: int) -> tuple[int | None, ...]:
    """Each layer's window, as transformers reads it off the settings."""
    window = config.get("sliding_window")
    if kind is None or not window or not config.get("use_sliding_window", True):
        return (None,) * layers
    if kind == "every layer":
        return (window,) * layers
    types = config.get("layer_types")
    if not types:
        first = config.get("max_window_layers", 0)
        types = ["sliding_attention" if layer >= first else "" for layer in range(layers)]
    return tuple(window if each == "sliding_attention" else None for each in types)
