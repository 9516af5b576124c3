"""The cosines of an encoder's embeddings with the original's."""

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.embeddings import unit_embeddings
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.runtime.bundle import Bundle


def cosine(bundle: Bundle, original: Bundle, data: Data) -> Quality:
    """Mean cosine of each text's embedding with the original's, and the 5th percentile."""
    rows = data.texts()
    texts = [row["text"] for row in rows]
    vectors, reference = unit_embeddings(bundle, texts), unit_embeddings(original, texts)
    if vectors.shape != reference.shape:
        raise UserError(
            f"{bundle.folder} makes embeddings of {vectors.shape[1]} numbers and {original.folder} "
            f"of {reference.shape[1]}: they cannot be compared."
        )
    cosines = (vectors.astype(np.float64) * reference).sum(axis=1)
    return Quality({"cosine": cosines}, _mean_and_p5, {"texts": len(texts)}, data.groups(rows))


def _mean_and_p5(scores: Scores) -> dict[str, float]:
    return {
        "mean_cosine": float(scores["cosine"].mean()),
        "p5_cosine": float(np.percentile(scores["cosine"], 5)),
    }
