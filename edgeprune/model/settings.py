"""Settings of a model's configuration, by whatever name its family gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.model.families import FAMILIES, find_family
from edgeprune.model.family import Family

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
