"""The original's tokens that a trimmed bundle keeps."""

import numpy as np

from edgeprune.runtime.bundle import Bundle

KEPT = "vocabulary.json"
"""A file of the bundle: {"kept": [the original's id of token 0, of token 1, ...]}."""


def kept_tokens(bundle: Bundle) -> np.ndarray | None:
    """The original's id of each token [vocabulary], int64; None if nothing was trimmed."""
    record = bundle.read_json(KEPT)
    return None if record is None else np.array(record["kept"], np.int64)
