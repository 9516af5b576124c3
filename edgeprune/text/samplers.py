"""The choice of calibration sequences: by groups, or from clusters of their embeddings.

Groups: a language gets samples by its share of what the model was trained on, so that none is
forgotten (Multilingual Brain Surgeon, 2404.04748). Clusters: inspired by EvoP's cluster-based
calibration sampling (2502.14910), whose details are not public; the steps are our own.
"""

from collections.abc import Mapping

import numpy as np

from edgeprune.base.budget import apportion
from edgeprune.base.errors import UserError

POWER = 0.5
"""A cluster of n gets samples in proportion to n^0.5: between its size (1) and equal parts (0)."""
PER_CLUSTER = 4
"""Samples for each cluster."""
_ROUNDS = 50


def share_out(
    count: int, sizes: Mapping[str, int], shares: Mapping[str, float] | None = None
) -> dict[str, int]:
    """The number of samples from each group, `count` in all, by `shares` (default: by size).

    A group that has too few gives all; the others share the rest. Groups of no share give nothing.

    Raises:
        UserError: shares name a group that is not there.
    """
    shares = sizes if shares is None else shares
    unknown = [name for name in shares if name not in sizes]
    if unknown:
        raise UserError(
            f"text.shares: the text has no group {unknown[0]!r}; it has {', '.join(sizes)}."
        )
    weights = [float(shares.get(name, 0)) for name in sizes]
    upper = [size if weight else 0 for size, weight in zip(sizes.values(), weights, strict=True)]
    counts = apportion(min(count, sum(upper)), weights, upper=upper)
    return dict(zip(sizes, counts, strict=True))


def from_clusters(vectors: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Indices of min(count, n) different rows of `vectors` [n, width] that cover them.

    One k-means cluster for every PER_CLUSTER samples; each gives at least one sample, its medoid
    first, then whichever of its members lies farthest from those taken.
    """
    count = min(count, len(vectors))
    if not count:
        return []
    labels = kmeans(vectors, max(1, count // PER_CLUSTER), rng)
    sizes = np.bincount(labels)
    counts = apportion(count, list(sizes**POWER), upper=sizes.tolist(), lower=[1] * len(sizes))
    chosen: list[int] = []
    for cluster, many in enumerate(counts):
        members = np.flatnonzero(labels == cluster)
        chosen += members[spread(vectors[members], many)].tolist()
    return chosen


def spread(points: np.ndarray, count: int) -> list[int]:
    """Indices of `count` rows: the medoid, then always the one farthest from those taken."""
    middle = points.mean(0)
    taken = [int(((points - middle) ** 2).sum(1).argmin())]
    nearest = ((points - points[taken[0]]) ** 2).sum(1)
    while len(taken) < count:
        nearest[taken[-1]] = -1.0  # never again, even among equals
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[taken[-1]]) ** 2).sum(1))
    return taken


def kmeans(points: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """A cluster 0, 1, ... of each row of `points` [n, width], none empty; at most `clusters`.

    Lloyd's algorithm from seeds drawn by squared distance (k-means++: Arthur & Vassilvitskii,
    2007). Where points coincide there may be fewer clusters.
    """
    points = np.asarray(points, np.float64)
    centres = points[[int(rng.integers(len(points)))]]
    nearest = _distances(points, centres)[:, 0]
    while len(centres) < clusters and nearest.max() > 1e-12:
        drawn = int(rng.choice(len(points), p=nearest / nearest.sum()))
        centres = np.vstack([centres, points[drawn]])
        nearest = np.minimum(nearest, _distances(points, points[[drawn]])[:, 0])
    labels = _distances(points, centres).argmin(1)
    for _ in range(_ROUNDS):
        labels = np.unique(labels, return_inverse=True)[1]  # what became empty is gone
        centres = np.stack([points[labels == each].mean(0) for each in range(labels.max() + 1)])
        moved = _distances(points, centres).argmin(1)
        if (moved == labels).all():
            break
        labels = moved
    return np.unique(labels, return_inverse=True)[1]


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances [n, centres]."""
    cross = points @ centres.T
    squares = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * cross
    return np.maximum(squares, 0.0)
