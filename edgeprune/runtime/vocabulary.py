"""Which of the original's tokens a trimmed bundle has left."""

import numpy as np

from edgeprune.runtime.bundle import Bundle

KEPT = "vocabulary.json"
"""A file of the bundle: {"kept": [the original's id of token 0, of token 1, ...]}."""


def kept_tokens(bundle: Bundle) -> np.ndarray | None:
    """The original's id of each token [vocabulary], int64; None where nothing was trimmed."""
    found = bundle.read_json(KEPT)
    return None if found is None else np.array(found["kept"], np.int64)
