"""Rotary positions as config.json states them: transformers 5 writes all of it as
`rope_parameters`, transformers 4 as `rope_theta`, `rope_scaling` and a setting for the share of a
head that is turned. The house, and what a bundle's clients read, is the latter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.model.families import Family

_BY_LENGTH = ("dynamic", "longrope")
"""Kinds whose angles change once a text is longer than those that the model was trained on."""


def without_rope_parameters(
    config: Mapping[str, Any], family: Family, file: Path
) -> dict[str, Any]:
    """The configuration in a file, in the words of transformers 4.

    Raises:
        UserError: its layers differ in their positions, or turn a share of each head that the
            family cannot.
    """
    config = dict(config)
    stated = config.get("rope_parameters")
    if not family.rotary or not isinstance(stated, dict) or not stated:
        return config
    del config["rope_parameters"]
    kinds = list(stated.values()) if all(isinstance(v, dict) for v in stated.values()) else [stated]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(
            f"{file}: rope_parameters differ between {' and '.join(stated)} layers, which this "
            "type of model is not known to have."
        )
    scaling = dict(kinds[0])
    for name in ("rope_theta", "partial_rotary_factor"):
        value = scaling.pop(name, None)
        if name in family.rotary and value is not None:
            config[family.rotary[name]] = value
        elif value not in (None, 1):
            raise UserError(
                f"{file}: rope_parameters.{name} is {value}, which this type of model does not "
                "have."
            )
    config["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    return config


def turns_whole_heads(config: Mapping[str, Any], family: Family) -> bool:
    """Whether positions are rotary and turn all of a head's values."""
    share = family.rotary.get("partial_rotary_factor")
    return bool(family.rotary) and (share is None or config.get(share) == 1)


def check_rope(config: Mapping[str, Any], file: Path) -> None:
    """Refuse rotary positions that change with a text's length: an exported graph holds one set.

    Raises:
        UserError: naming the file, the kind, and the length from which on it differs.
    """
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    longest = config.get("max_position_embeddings")
    key = "original_max_position_embeddings"
    trained = scaling.get(key) or config.get(key) or longest
    if kind in _BY_LENGTH and longest and trained < longest:
        raise UserError(
            f"{file}: rope_type {kind} turns positions by other angles once a text has more than "
            f"{trained:,} tokens, and a graph holds one set of them: such a model cannot be built."
        )
