"""Two encoders' embeddings of the same texts."""

from collections.abc import Sequence

import numpy as np

from edgeprune.model.projection import unit_length
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder


def unit_embeddings(
    bundle: Bundle, texts: Sequence[str], batch_size: int | None = None
) -> np.ndarray:
    """Embeddings of length 1, [texts, size] float32; `batch_size` as the runtime has it.

    Raises:
        ModelFault: the model produced NaN or infinite embeddings, which no comparison would show.
    """
    return unit_length(Embedder(bundle).embed(texts, batch_size))
