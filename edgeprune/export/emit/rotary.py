"""Tables of rotary positions: the cosines and sines of every angle that a model turns heads by.

A pair of a head's values at place i of D/2 is turned by position * f_i (RoPE, Su et al., 2021).
Kinds differ in the frequencies f and in a factor on cosines and sines:

    default  f_i = theta^(-2i/D)
    linear   f / factor: positions are interpolated (Chen et al., 2023)
    dynamic  as default up to the length that the model was trained on, and no graph goes further
    llama3   long waves are interpolated, short ones are left, the ones between are mixed
    yarn     the same by the number of turns within the trained length (Peng et al., 2023)
    longrope f divided by a stored factor each (Ding et al., 2024): the short ones, which hold up to
             the length that the model was trained on, and no graph goes further

Closed forms in float64, rounded to float32 where transformers does: at position 8,000 the last bit
of a frequency or an angle is worth 0.0005, and a model learnt with the angles that it was given.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeprune.model.anatomy import Anatomy
from edgeprune.model.rope import turned_share
from edgeprune.model.settings import TRAINED_LENGTH, trained_length

Rotation = tuple[np.ndarray, float]
"""Frequencies (D/2,), and the factor on cosines and sines."""


def rotary_width(config: Mapping[str, Any], anatomy: Anatomy) -> int:
    """The number of a head's first values that are rotated."""
    return int(anatomy.blocks[0].attention.head_dim * turned_share(config, anatomy.family))


def rotary_tables(
    config: Mapping[str, Any], anatomy: Anatomy, window: bool = False
) -> tuple[np.ndarray, ...] | None:
    """Cosines and sines (positions, D/2), float32, of D turned values; None for an unknown kind.

    Args:
        config: the contents of config.json, in the words of transformers 4.
        anatomy: of a family with rotary positions.
        window: those of layers with a window, where these have a base of their own; positions in
            them are not stretched.
    """
    scaling = {} if window else config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _KINDS:
        return None
    longest = int(config.get("max_position_embeddings") or anatomy.max_positions)
    width = rotary_width(config, anatomy)
    name = anatomy.family.rotary["window_theta" if window else "rope_theta"]
    theta = float(config.get(name, 10_000.0))
    scaling = {**scaling, TRAINED_LENGTH: trained_length(config) or longest}
    frequencies, factor = _KINDS[kind](theta, width, scaling, longest)
    angles = _single(np.arange(anatomy.max_positions)[:, None] * _single(frequencies))
    return tuple((turn(angles) * factor).astype(np.float32) for turn in (np.cos, np.sin))


def _single(values: np.ndarray) -> np.ndarray:
    """Rounded to float32, for more arithmetic in float64."""
    return values.astype(np.float32).astype(np.float64)


def _waves(theta: float, width: int) -> np.ndarray:
    """theta^(2i/D), the inverse of the default frequencies."""
    return _single(theta ** _single(np.arange(0, width, 2) / width))


def _plain(theta: float, width: int) -> np.ndarray:
    return _single(1 / _waves(theta, width))


def _default(theta: float, width: int, scaling: Mapping[str, Any], longest: int) -> Rotation:
    return _plain(theta, width), 1.0


def _linear(theta: float, width: int, scaling: Mapping[str, Any], longest: int) -> Rotation:
    return _plain(theta, width) / scaling["factor"], 1.0


def _llama3(theta: float, width: int, scaling: Mapping[str, Any], longest: int) -> Rotation:
    plain, trained = _plain(theta, width), scaling[TRAINED_LENGTH]
    few, many = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = trained * plain / (2 * np.pi)
    kept = np.clip((turns - few) / (many - few), 0, 1)
    return kept * plain + (1 - kept) * plain / scaling["factor"], 1.0


def _yarn(theta: float, width: int, scaling: Mapping[str, Any], longest: int) -> Rotation:
    plain, factor = _plain(theta, width), scaling["factor"]
    trained = scaling[TRAINED_LENGTH]

    def place(turns: float) -> float:
        """Of the pair that turns so often within the trained length."""
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = place(scaling.get("beta_fast") or 32)
    last = place(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001
    left = np.clip((np.arange(width // 2) - first) / (last - first), 0, 1)
    return (1 - left) * plain + left * plain / factor, _yarn_factor(scaling)


def _yarn_factor(scaling: Mapping[str, Any]) -> float:
    """0.1 m ln(factor) + 1, or the stated one."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def size(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1 if scaling["factor"] > 1 else 1.0

    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return size(above) / size(below) if above and below else size(1)


def _longrope(theta: float, width: int, scaling: Mapping[str, Any], longest: int) -> Rotation:
    trained, stated = scaling[TRAINED_LENGTH], scaling.get("attention_factor")
    factor = scaling.get("factor") or longest / trained
    if stated is None:
        stated = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    stretch = _single(np.asarray(scaling["short_factor"]))
    return 1 / _single(stretch * _waves(theta, width)), float(stated)


_KINDS: dict[str, Callable[[float, int, Mapping[str, Any], int], Rotation]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
