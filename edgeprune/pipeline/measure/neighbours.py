"""What became of the order in which an encoder finds texts, on text that no stage trained on."""

from pathlib import Path
from typing import Any

from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.retrieval import NEIGHBOURS

_KEPT = ("task", "values", "interval", "conditions")


def measure_neighbours(place: Path, original: Path, held: Path) -> dict[str, Any]:
    """What `evaluate` finds by retrieval; nothing of texts so few that all are neighbours.

    Args:
        held: a .txt file, a text a line.
    """
    if len(set(held.read_text(encoding="utf-8").splitlines())) < NEIGHBOURS + 2:
        return {}
    found = evaluate(place, "retrieval", held, None, original)
    return {"data": "held-out text", **{key: found[key] for key in _KEPT if key in found}}
