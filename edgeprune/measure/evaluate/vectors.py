"""Neighbours by vectors that are stored in fewer bytes."""

import numpy as np

from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.measure.evaluate.retrieval import NEIGHBOURS, different_texts, nearest
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.compact import compact
from edgeprune.runtime.embed import Embedder

CANDIDATES = 4 * NEIGHBOURS
"""Neighbours by bits, of which the float32 vector of the asking text chooses."""


def vectors(bundle: Bundle, original: Bundle, data: Data) -> Quality:
    """The share of the original's ten nearest that is among this model's ten, times 100, with its
    vectors in float32, in INT8, in single bits, and in single bits of which forty are chosen from
    by the float32 vector of the text that asks. The original's vectors stay float32.
    """
    rows = different_texts(data)
    texts = [row["text"] for row in rows]
    ours, theirs = (Embedder(model).embed(texts) for model in (bundle, original))
    by = bundle.library.similarity
    wanted = nearest(theirs, NEIGHBOURS, original.library.similarity)
    signs = _signs(ours)
    few = min(CANDIDATES, len(texts) - 1)
    found = {
        "float32": nearest(ours, NEIGHBOURS, by),
        "int8": nearest(compact(ours, "int8").astype(np.float32), NEIGHBOURS, "cosine"),
        "binary": nearest(signs, NEIGHBOURS),
        "binary_rescored": _rescored(ours, signs, nearest(signs, few)),
    }
    scores = {
        f"{kind}_overlap_at_10": (wanted[:, :, None] == own[:, None, :]).any(axis=2).mean(axis=1)
        for kind, own in found.items()
    }
    return Quality(scores, percentages, {"texts": len(rows)}, data.groups(rows))


def _signs(values: np.ndarray) -> np.ndarray:
    """1 and -1 by the bits that are stored, whose product falls by 2 with each that differs."""
    bits = np.unpackbits(compact(values, "ubinary"), axis=-1, count=values.shape[1])
    return 2 * bits.astype(np.float32) - 1


def _rescored(ours: np.ndarray, signs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The NEIGHBOURS of each row's candidates with the largest product of vector and signs."""
    products = np.einsum("nd,ncd->nc", ours, signs[candidates])
    best = np.argsort(-products, axis=1, kind="stable")[:, :NEIGHBOURS]
    return np.take_along_axis(candidates, best, axis=1)
