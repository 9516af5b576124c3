"""Quality for the gate: one measure on both sides, and how its change counts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.measure.check.figures import Quality
from edgeprune.measure.check.settings import QualityTask
from edgeprune.measure.evaluate.data import SEED
from edgeprune.measure.evaluate.measures import MEASURES, evaluate
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER
from edgeprune.measure.evaluate.table import sampled
from edgeprune.runtime.bundle import Bundle


@dataclass(frozen=True)
class Scale:
    """The scale of a measure's first value: points per unit, or per cent where None."""

    higher_is_better: bool
    points: float | None


# Points a unit of the first value that each measure gives; None: per cent. A KL divergence of 0.01
# nats a token is about one per cent of perplexity.
POINTS: dict[str, float | None] = {
    "spearman": 1.0,
    "mean_cosine": 100.0,
    "overlap_at_10": 1.0,
    "float32_overlap_at_10": 1.0,
    "new_overlap_at_10": 1.0,
    "accuracy": 1.0,
    "acc": 1.0,
    "f1": 1.0,
    "f1_micro": 1.0,
    "ndcg_at_10": 1.0,
    "exact_match": 1.0,
    "half_of_words": 1.0,
    "ece": 1.0,
    "perplexity": None,
    "kl_nats_per_token": 100.0,
}


def measure_quality(given: QualityTask, bundle: Bundle, baseline: Bundle | None) -> Quality | None:
    """Run the measure on one side; None where none was asked for.

    One that compares with the original takes `given.original`, else the baseline: then it says how
    far the answers moved since.

    Raises:
        UserError: half a measure was asked for, or it does not fit the bundle, or has nothing to
            compare with.
    """
    if given.task is None or given.data is None:
        if given != QualityTask():
            raise UserError("A quality measure needs both --task and --data.")
        return None
    against: str | Bundle | None = None
    if given.task in MEASURES and MEASURES[given.task].against_original:
        against = given.original or baseline
        if against is None:
            raise UserError(f"{given.task} compares with the original: name it with --original.")
    found = evaluate(bundle, given.task, given.data, given.limit, against)
    return Quality(
        task=given.task,
        data=given.data,
        digest=_digest(Path(given.data), given),
        values=found.values,
        sample=sampled(found.sample) if found.sample else "",
        classes={
            name: f1
            for name, each in (found.classes or {}).items()
            if (f1 := each.values.get("f1")) is not None
        },
    )


def headline(quality: Quality) -> tuple[str, Scale]:
    """The value that the gate judges, a measure's first, and its scale.

    Raises:
        UserError: the measure's direction is unknown.
    """
    name = next(iter(quality.values))
    if name not in POINTS:
        raise UserError(
            f"The gate does not know whether more {name} is better: take a task that gives "
            f"{', '.join(POINTS)}."
        )
    return name, Scale(name not in LOWER_IS_BETTER, POINTS[name])


def _digest(data: Path, given: QualityTask) -> str:
    """A hash of the data (of a dataset elsewhere, its name), the rows taken of it, and whether
    there is an original."""
    rows = f"{given.limit} by seed {SEED}" if given.limit else "None"
    content = hashlib.sha256(f"{rows} {given.original is None}\0".encode())
    if not data.exists():
        content.update(str(data).encode())
    for file in sorted(data.rglob("*")) if data.is_dir() else [data]:
        if file.is_file():
            content.update(file.read_bytes())
    return content.hexdigest()
