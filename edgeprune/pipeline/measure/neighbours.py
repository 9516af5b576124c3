"""The order in which an encoder finds texts, on text that no stage trained on."""

from pathlib import Path

from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.retrieval import NEIGHBOURS
from edgeprune.measure.record import Mixed, Neighbours, Overlap


def measure_neighbours(place: Path, original: Path, held: Path) -> Neighbours:
    """Measure retrieval and mixing by `evaluate`; nothing of texts so few that all are neighbours.

    Args:
        held: the file of held-out texts.
    """
    if len({row["text"] for row in Data(held).texts()}) < NEIGHBOURS + 2:
        return Neighbours()
    found = evaluate(place, "retrieval", held, None, original)
    mixed = evaluate(place, "mixing", held, None, original)
    return Neighbours(
        data="held-out text",
        task=found.task,
        values=Overlap.model_validate(found.values),
        interval=found.interval,
        conditions=found.conditions,
        mixed=Mixed.model_validate(mixed.values),
    )
