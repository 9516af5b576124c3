"""The function between a model's logits and the scores that it answers with.

sentence-transformers keeps the class of a cross-encoder's in its settings: in
config_sentence_transformers.json, and before that in config.json. No class is imported by its name:
those of the table below are known, and a model that names another is refused.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_object

Activation = Callable[[np.ndarray], np.ndarray]


def identity(logits: np.ndarray) -> np.ndarray:
    """The logits."""
    return logits


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    half: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return half


ACTIVATIONS: Mapping[str, Activation] = {
    "Identity": identity,
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "ReLU": lambda logits: np.maximum(logits, 0),
}
"""By the name of torch's class."""
_MODULES = ("torch.nn.", "torch.nn.modules.activation.", "torch.nn.modules.linear.")
_LIBRARY = "config_sentence_transformers.json"


def activation_of(config: Mapping[str, Any], folder: Path) -> str:
    """The name in ACTIVATIONS of a model of one logit: what its settings say, else none of a
    regression and the sigmoid of any other, as transformers and sentence-transformers have it.

    Args:
        config: the contents of config.json. folder: where the model's other settings lie.

    Raises:
        UserError: it names one that is not known here.
    """
    stated = stated_activation(config, folder)
    if stated is None:
        return "Identity" if config.get("problem_type") == "regression" else "Sigmoid"
    return stated


def stated_activation(config: Mapping[str, Any], folder: Path) -> str | None:
    """The name in ACTIVATIONS that a model's settings state, if they do.

    Raises:
        UserError: as above.
    """
    own = read_object(folder / _LIBRARY)
    within = config.get("sentence_transformers")
    stated = (
        own.get("activation_fn")
        or (within.get("activation_fn") if isinstance(within, dict) else None)
        or config.get("sbert_ce_default_activation_function")
    )
    if stated is None:
        return None
    module, _, name = str(stated).rpartition(".")
    if f"{module}." not in _MODULES or name not in ACTIVATIONS:
        raise UserError(
            f"{folder} answers by the activation function {stated}, which EdgePrune does not run: "
            f"it knows {', '.join(ACTIVATIONS)} of torch.nn."
        )
    return name
