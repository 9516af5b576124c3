"""The one look at whether what a model gave are numbers: NaN compares with nothing, and JSON has
no word for it."""

import numpy as np

from edgeprune.base.errors import ModelFault
from edgeprune.runtime.bundle import Bundle


def finite(values: np.ndarray, what: str, bundle: Bundle) -> np.ndarray:
    """`values` as they are, any shape.

    Raises:
        ModelFault: one of them is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise _fault(what, bundle)
    return values


def finite_logits(logits: np.ndarray, bundle: Bundle) -> np.ndarray:
    """A decoder's logits [..., vocabulary] as they are; a token that may not come has -inf.

    Raises:
        ModelFault: no token can be told to be the likeliest.
    """
    if not np.isfinite(logits.max(axis=-1)).all():
        raise _fault("logits", bundle)
    return logits


def _fault(what: str, bundle: Bundle) -> ModelFault:
    return ModelFault(
        f"The model {bundle.folder.resolve().name} gives {what} that are no numbers (NaN or "
        "infinity): its weights are damaged or overflow; build it again, or take another."
    )
