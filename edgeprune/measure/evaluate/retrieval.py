"""Whether an encoder finds the same neighbours as the original."""

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.measure.evaluate.similarity import each_with_each
from edgeprune.model.projection import unit_length
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder
from edgeprune.text.files import Row
from edgeprune.text.prompts import Similarity

NEIGHBOURS = 10
# Rows of the similarity matrix at a time.
_CHUNK = 512


def retrieval(bundle: Bundle, original: Bundle, data: Data) -> Quality:
    """Agreement with the original on each text's nearest others, by the model's similarity.

    Both are times 100. Of texts that people judged to be relevant, `ranking` tells the share that
    is found, which information retrieval calls recall@10.

    overlap_at_10: the mean share of the original's ten nearest that are among this model's ten:
    recall@10 of an index, 10-recall@10.
    recall_at_10: the share of texts whose nearest by the original is among this model's ten: an
    index's 1-recall@10.
    A text that comes again is left out, for its copies would be each other's neighbours.
    """
    rows = different_texts(data)
    texts = [row["text"] for row in rows]
    found, reference = (
        nearest(Embedder(model).embed(texts), NEIGHBOURS, model.library.similarity)
        for model in (bundle, original)
    )
    scores = {
        "overlap_at_10": (reference[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1),
        "recall_at_10": (reference[:, :1] == found).any(axis=1).astype(float),
    }
    return Quality(scores, percentages, {"texts": len(rows)}, data.groups(rows))


def different_texts(data: Data) -> list[Row]:
    """Rows of different texts, in order.

    Raises:
        UserError: there are so few that all are each other's neighbours.
    """
    rows = list({row["text"]: row for row in reversed(data.texts())}.values())[::-1]
    if len(rows) < NEIGHBOURS + 2:
        raise UserError(
            f"{data.place} has {len(rows)} different texts, and so few have all others among "
            f"their {NEIGHBOURS} nearest: give {NEIGHBOURS + 2} or more."
        )
    return rows


def nearest(
    vectors: np.ndarray, count: int, by: Similarity = "dot", index: np.ndarray | None = None
) -> np.ndarray:
    """The `count` rows of an index that are most similar to each row of `vectors` [n, size], the
    one of the same number left out.

    Args:
        index: of the same texts [n, size]; without one, the vectors themselves.

    Returns:
        Nearest first, equally near ones in their order: [n, count].
    """
    found = np.empty((len(vectors), count), np.int64)
    index = vectors if index is None else index
    if by == "cosine":  # once, not with every part of the rows
        vectors, index, by = unit_length(vectors), unit_length(index), "dot"
    for start in range(0, len(vectors), _CHUNK):
        products = each_with_each(vectors[start : start + _CHUNK], index, by)
        own = np.arange(len(products))
        products[own, start + own] = -np.inf
        found[start : start + _CHUNK] = np.argsort(-products, axis=1, kind="stable")[:, :count]
    return found
