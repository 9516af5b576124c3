"""Rotary positions as config.json states them: transformers 5 writes all of it as
`rope_parameters`, by type of layer where these differ, transformers 4 as `rope_theta`,
`rope_scaling`, a setting for the share of a head that is turned, and one for the base in layers
with a window. The house speaks, and a bundle says, the latter: transformers 5 reads both, and
older clients nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.model.family import Family
from edgeprune.model.settings import TRAINED_LENGTH, trained_length


def named_longrope(config: dict[str, Any]) -> None:
    """Give longrope its name where the first Phi-3s call it su or yarn; no other has such factors.

    Of its two names for a kind, transformers 4 reads the older alone in a Phi-3.
    """
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict) and "short_factor" in scaling:
        kept = {name: value for name, value in scaling.items() if name not in ("type", "rope_type")}
        config["rope_scaling"] = {"type": "longrope", **kept}


def without_rope_parameters(
    config: Mapping[str, Any], family: Family, file: Path
) -> dict[str, Any]:
    """The configuration in a file, in the words of transformers 4.

    Raises:
        UserError: its layers differ in their positions, or turn a share of each head that the
            family cannot; or both versions' words are there and say different things.
    """
    config = dict(config)
    stated = config.get("rope_parameters")
    if not family.rotary or not isinstance(stated, dict) or not stated:
        return config
    del config["rope_parameters"]
    if own := family.rotary.get("window_theta"):
        window, stated = _by_window(stated, file)
        if window.get("rope_theta") is not None:
            name = "rope_parameters.sliding_attention.rope_theta"
            _say(config, own, window["rope_theta"], name, file)
    by_layer = any(isinstance(value, dict) for value in stated.values())
    kinds = list(stated.values()) if by_layer else [stated]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(
            f"{file}: rope_parameters differ between {' and '.join(stated)} layers, which this "
            "type of model is not known to have."
        )
    scaling = dict(kinds[0])
    outside = {"rope_theta", "partial_rotary_factor", *family.rotary}
    for name in sorted(outside):
        value = scaling.pop(name, None)
        if name in family.rotary and value is not None:
            _say(config, family.rotary[name], value, f"rope_parameters.{name}", file)
        elif value not in (None, 1):
            raise UserError(
                f"{file}: rope_parameters.{name} is {value}, which this type of model does not "
                "have."
            )
    default = _named(scaling)["rope_type"] == "default"
    _say(config, "rope_scaling", None if default else scaling, "rope_parameters", file)
    named_longrope(config)
    return config


def _by_window(stated: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The positions stated for layers with a window, and for those without.

    Raises:
        UserError: it is not said by layer, or positions in layers with a window are stretched.
    """
    if unknown := set(stated) - {"sliding_attention", "full_attention"}:
        raise UserError(
            f"{file}: rope_parameters of this type of model are those of sliding_attention and "
            f"full_attention layers, and here is {min(unknown)}: state both."
        )
    window, whole = (
        dict(stated.get(kind) or {}) for kind in ("sliding_attention", "full_attention")
    )
    if window.get("rope_type", "default") != "default" or window.keys() - {
        "rope_type",
        "rope_theta",
    }:
        raise UserError(
            f"{file}: rope_parameters.sliding_attention says {window}, and in such layers this "
            "type of model is only known to have a rope_theta."
        )
    return window, whole


def _say(config: dict[str, Any], name: str, value: Any, source: str, file: Path) -> None:
    """Put what `source` says of a setting under its name, where nothing else stands.

    Raises:
        UserError: another value stands there.
    """
    own = config.get(name)
    if _differ(own, value):
        raise UserError(
            f"{file}: {source} says {value}, and {name} says {own}: remove the one that is not the "
            "model's."
        )
    config[name] = value


def _differ(own: Any, other: Any) -> bool:
    """Whether two statements of one setting contradict; one that is missing contradicts nothing."""
    if own is None:
        return False
    if not isinstance(own, dict):
        return bool(own != other)
    own, other = _named(own), _named(other or {})
    return any(own[key] != other[key] for key in own.keys() & other.keys())


def _named(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """A stretching of positions whose kind is under the newer of its two names."""
    rest = {key: value for key, value in scaling.items() if key != "type"}
    return {"rope_type": scaling.get("type", "default"), **rest}


def turns_whole_heads(config: Mapping[str, Any], family: Family) -> bool:
    """Whether positions are rotary and turn all of a head's values."""
    return bool(family.rotary) and turned_share(config, family) == 1


def turned_share(config: Mapping[str, Any], family: Family) -> float:
    """The share of a head's values that are turned, its first ones."""
    value = config.get(family.rotary.get("partial_rotary_factor", ""))
    return family.turned_share if value is None else float(value)


def check_rope(config: Mapping[str, Any], family: Family, file: Path) -> None:
    """Refuse rotary positions whose angles cannot be told from the configuration, or change with a
    text's length, since an exported graph holds one set; see also `settings.short_length`.

    Raises:
        UserError: naming the file, and the kind.
    """
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    longest = config.get("max_position_embeddings")
    if kind not in (None, "default") and not family.stretches:
        raise UserError(
            f"{file} stretches positions (rope_type {kind}), which this type of model is not known "
            "to do: remove it."
        )
    if kind == "longrope" and TRAINED_LENGTH in family.rotary and not trained_length(config):
        raise UserError(
            f"{file} has longrope positions and does not say {TRAINED_LENGTH}: add the number of "
            "tokens that the model was trained on before them."
        )
    trained = trained_length(config) or longest
    if kind == "dynamic" and longest and trained < longest:
        raise UserError(
            f"{file}: rope_type {kind} turns positions by other angles once a text has more than "
            f"{trained:,} tokens, and a graph holds one set of them: such a model cannot be built."
        )
