"""Two encoders' embeddings of the same texts."""

from collections.abc import Sequence

import numpy as np

from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder, normalize


def unit_embeddings(
    bundle: Bundle, texts: Sequence[str], batch_size: int | None = None
) -> np.ndarray:
    """Embeddings of length 1, [texts, size] float32; `batch_size` as the runtime has it.

    Raises:
        ModelFault: the model produced NaN or infinite embeddings, which no comparison would show.
    """
    return normalize(Embedder(bundle).embed(texts, batch_size))
