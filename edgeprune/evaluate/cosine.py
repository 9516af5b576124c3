"""How far an encoder's embeddings moved from the original's."""

from pathlib import Path

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.evaluate.result import Quality
from edgeprune.runtime.embed import Embedder, normalize
from edgeprune.text.files import read_texts


def cosine(bundle: Bundle, original: Bundle, data: Path, limit: int | None = None) -> Quality:
    """Mean cosine of each text's embedding with the original's, and the 5th percentile."""
    texts = read_texts(data, limit)
    ours = normalize(Embedder(bundle).embed(texts))
    theirs = normalize(Embedder(original).embed(texts))
    if ours.shape != theirs.shape:
        raise UserError(
            f"{bundle.folder} makes embeddings of {ours.shape[1]} numbers and {original.folder} "
            f"of {theirs.shape[1]}: they cannot be compared."
        )
    cosines = (ours.astype(np.float64) * theirs).sum(axis=1)
    values = {
        "mean_cosine": float(cosines.mean()),
        "p5_cosine": float(np.percentile(cosines, 5)),
    }
    return Quality(values, {"texts": len(texts)})
