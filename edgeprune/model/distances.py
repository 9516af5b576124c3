"""Distances of tokens as DeBERTa's attention knows them (He et al., 2021, 2006.03654, section 3.1).

Beside the product of query and key, a score has the product of a token's query with a key of the
other's distance (c2p), and that of its key with a query of the distance (p2c); all are divided by
the root of a head's size times the number of products. Keys and queries of distances are linear in
a table with a row for each distance, the same for all layers, or, for far ones, for a bucket of
them on a logarithmic scale (He et al., 2023, 2111.09543, appendix).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.model.family import Family

KEY, QUERY = "c2p", "p2c"
_NORMED = "layer_norm"


@dataclass(frozen=True)
class Distances:
    """The distances of one model; paths are relative to the base model, or to a layer."""

    table: str
    norm: str | None
    """Of the table's rows, before anything reads them."""
    key: str | None
    """The linear that makes keys of the rows; None where distances have none."""
    query: str | None
    """The same of queries."""
    span: int
    """Distances that have a row, in either direction."""
    buckets: int
    """As many of them on a logarithmic scale beyond the nearest half; 0: each has a row."""
    furthest: int
    """The distance from which on all share the last bucket."""

    @property
    def products(self) -> int:
        """Products of which a score is the sum."""
        return 1 + sum(linear is not None for linear in (self.key, self.query))

    def rows(self, distances: np.ndarray) -> np.ndarray:
        """The table's row for each distance, which is positive for a key before the query."""
        if self.buckets:
            distances = self._bucketed(distances)
        return np.clip(distances + self.span, 0, 2 * self.span - 1)

    def _bucketed(self, distances: np.ndarray) -> np.ndarray:
        half = self.buckets // 2
        away = np.abs(distances)
        # In float32, as torch does it: a bucket ends where that rounds.
        ratio = np.log(np.maximum(away, half).astype(np.float32) / np.float32(half))
        share = ratio / np.float32(math.log((self.furthest - 1) / half)) * np.float32(half - 1)
        far = np.ceil(share).astype(np.int64) + half
        return np.where(away <= half, distances, np.sign(distances) * far)


def read_distances(config: Mapping[str, Any], family: Family) -> Distances | None:
    """The distances that a model's attention knows; None where its family's knows none.

    Raises:
        UserError: its settings ask for products that are not known here.
    """
    paths = family.disentangled
    if paths is None:
        return None
    kinds = config.get("pos_att_type") or []
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    if unknown := set(kinds) - {KEY, QUERY}:
        raise UserError(
            f"config.json says pos_att_type {'|'.join(kinds)}, and of its parts {min(unknown)} is "
            f"not known here, but {KEY} and {QUERY} are."
        )
    furthest = int(config.get("max_relative_positions") or -1)
    if furthest < 1:
        furthest = int(config["max_position_embeddings"])
    buckets = max(0, int(config.get(paths.buckets or "") or 0))
    own = not (paths.shared and config.get(paths.shared))
    norms = str(config.get(paths.norms or "") or "none").lower().split("|")
    return Distances(
        table=paths.table,
        norm=paths.norm if _NORMED in [each.strip() for each in norms] else None,
        key=(paths.key if own else family.key) if KEY in kinds else None,
        query=(paths.query if own else family.query) if QUERY in kinds else None,
        span=buckets or furthest,
        buckets=buckets,
        furthest=furthest,
    )
