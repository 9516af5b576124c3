"""Vectors of two models in one index: whether an index must be made anew."""

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.measure.evaluate.retrieval import NEIGHBOURS, different_texts, nearest
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder


def mixing(bundle: Bundle, original: Bundle, data: Data) -> Quality:
    """The share of the original's ten nearest that an index finds, times 100, with vectors of this
    model and of the original.

    new: all by this model, as in `retrieval`. new_queries: the texts that ask by this model, the
    index by the original. new_documents: the other way round. half_new: every second text of the
    index by this model, as in one that grows on, and the texts that ask by this model.

    Raises:
        UserError: the two models' vectors are not of one size or not compared by one function.
    """
    rows = different_texts(data)
    texts = [row["text"] for row in rows]
    by = original.library.similarity
    new, old = (Embedder(model).embed(texts) for model in (bundle, original))
    if new.shape != old.shape or bundle.library.similarity != by:
        raise UserError(
            f"{bundle.folder} makes vectors of {new.shape[1]} numbers, compared by "
            f"{bundle.library.similarity}, and {original.folder} of {old.shape[1]}, by {by}: they "
            "cannot stand in one index."
        )
    half = np.where(np.arange(len(texts))[:, None] % 2, new, old)
    wanted = nearest(old, NEIGHBOURS, by)
    found = {
        "new": nearest(new, NEIGHBOURS, by),
        "new_queries": nearest(new, NEIGHBOURS, by, old),
        "new_documents": nearest(old, NEIGHBOURS, by, new),
        "half_new": nearest(new, NEIGHBOURS, by, half),
    }
    scores = {
        f"{kind}_overlap_at_10": (wanted[:, :, None] == own[:, None, :]).any(axis=2).mean(axis=1)
        for kind, own in found.items()
    }
    return Quality(scores, percentages, {"texts": len(rows)}, data.groups(rows))
