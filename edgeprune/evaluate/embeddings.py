"""Two encoders' embeddings of the same texts."""

from collections.abc import Sequence

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.runtime.embed import Embedder, normalize


def unit_embeddings(
    bundle: Bundle, texts: Sequence[str], batch_size: int | None = None
) -> np.ndarray:
    """Embeddings of length 1, [texts, size] float32; `batch_size` as the runtime has it.

    Raises:
        UserError: the model's outputs are no numbers, which no comparison would show.
    """
    vectors = normalize(Embedder(bundle).embed(texts, batch_size))
    if not np.isfinite(vectors).all():
        raise UserError(f"{bundle.folder} gives embeddings that are no numbers.")
    return vectors
