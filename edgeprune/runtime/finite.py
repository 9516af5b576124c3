"""Refuse outputs with NaN or infinity: NaN compares with nothing, and JSON cannot hold it."""

import numpy as np

from edgeprune.base.errors import ModelFault
from edgeprune.runtime.bundle import Bundle


def finite(values: np.ndarray, what: str, bundle: Bundle) -> np.ndarray:
    """Return `values`, of any shape, unchanged.

    Raises:
        ModelFault: one of them is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise fault(what, bundle)
    return values


def finite_logits(logits: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Return a decoder's logits [..., vocabulary] unchanged; a forbidden token has -inf.

    Raises:
        ModelFault: no token is the likeliest.
    """
    if not np.isfinite(logits.max(axis=-1)).all():
        raise fault("logits", bundle)
    return logits


def fault(what: str, bundle: Bundle) -> ModelFault:
    """The error of a model whose outputs, by their name, are not finite."""
    return ModelFault(
        f"The model {bundle.folder.resolve().name} produced NaN or infinite {what}: its weights "
        "are damaged or overflow; build it again, or use another model."
    )
