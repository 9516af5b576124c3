"""Pooling of a text's tokens into one vector, as sentence-transformers does it.

Every way but max is a weighted sum of a text's tokens, so that it is written down once, as the
weights: for numpy on a device and for torch in training alike.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.model.modules import POOLING, Module, read_modules, settings_of

MAX = "max"
# sentence-transformers' names, the older one without its ending.
_MODES = ("mean", "cls", "lasttoken", MAX, "mean_sqrt_len_tokens", "weightedmean")
_FLAG, _SHORT = "pooling_mode_", {"mean_sqrt_len": "mean_sqrt_len_tokens"}
# The order in which older files' flags are joined.
_FLAGS_IN_ORDER = ("cls", MAX, "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True)
class Pooling:
    """The parts of a text's states that make its vector."""

    modes: tuple[str, ...] = ("mean",)
    """One or several, whose vectors are joined in this order."""
    include_prompt: bool = True
    """Whether the tokens of a prompt take part."""


def read_pooling(folder: Path) -> Pooling | None:
    """Read the pooling of the encoder in `folder`; None where the folder does not say.

    Raises:
        UserError: it pools in a way, or has a module, that edgeprune does not run.
    """
    for module in read_modules(folder):
        if module.kind == POOLING:
            return _read(folder, module)
    return None


def token_weights(mode: str, mask: np.ndarray, left_out: np.ndarray | None = None) -> np.ndarray:
    """The factors of tokens' states before they are summed.

    Args:
        mode: any but max.
        mask: 1 for each real token, [texts, tokens]; padding may stand on either side.
        left_out: how many of each text's first real tokens take no part, [texts].

    Returns:
        [texts, tokens] float32; zeros for a text of which nothing takes part, but for the first
        token alone (cls), which is then the row's first.
    """
    taken = pooled_tokens(mask, left_out)
    counted = np.cumsum(mask, axis=1)
    if mode == "cls":
        chosen = np.argmax(taken, axis=1)
        return _one_of_each(chosen, mask.shape[1])
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - np.argmax(taken[:, ::-1], axis=1)
        return _one_of_each(last, mask.shape[1]) * taken
    weights = (taken * counted if mode == "weightedmean" else taken).astype(np.float32)
    total = np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-9))
    scaled: np.ndarray = weights / (np.sqrt(total) if mode.startswith("mean_sqrt_len") else total)
    return scaled


def pooled_tokens(mask: np.ndarray, left_out: np.ndarray | None = None) -> np.ndarray:
    """The tokens that take part, [texts, tokens] bool; arguments as above."""
    real = mask != 0
    if left_out is None:
        return real
    taken: np.ndarray = real & (np.cumsum(real, axis=1) > np.asarray(left_out)[:, None])
    return taken


def _one_of_each(places: np.ndarray, tokens: int) -> np.ndarray:
    chosen: np.ndarray = (np.arange(tokens) == places[:, None]).astype(np.float32)
    return chosen


def _read(folder: Path, module: Module) -> Pooling:
    config = settings_of(folder, module)
    modes = _modes(config)
    if not modes or not set(modes) <= set(_MODES):
        raise UserError(
            f"{folder / module.path} (Pooling) pools by {list(modes)}, which edgeprune does not "
            f"run: only {', '.join(_MODES)}, alone or several."
        )
    return Pooling(modes, bool(config.get("include_prompt", True)))


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    """sentence-transformers 5 writes one name or a list, older ones a flag for each mode."""
    modes = config.get("pooling_mode")
    if isinstance(modes, list):
        return tuple(map(str, modes))
    if modes is not None:
        return (str(modes),)
    flags = [
        name.removeprefix(_FLAG) for name, on in config.items() if name.startswith(_FLAG) and on
    ]
    found = [_SHORT.get(name, name) for name in map(_without_ending, flags)]
    ordered = sorted(found, key=lambda mode: (*_FLAGS_IN_ORDER, mode).index(mode))
    return tuple(ordered) or ("mean",)


def _without_ending(flag: str) -> str:
    return flag.removesuffix("_tokens").removesuffix("_token")
