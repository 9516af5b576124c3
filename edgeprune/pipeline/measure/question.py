"""A quality measure that a build asks of its models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.measure.evaluate.measures import MEASURES, evaluate
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.model.tasks import TASKS


@dataclass(frozen=True)
class Question:
    """A quality measure, what it reads, and what records call that."""

    measure: str
    data: str | Path
    limit: int | None = None
    window: int | None = None
    called: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    languages: bool = False
    """Whether also language by language."""

    def ask(self, place: Path, original: Path, parts: bool = True) -> Evaluation:
        """Evaluate the bundle beside the original.

        Args:
            parts: also class by class and language by language, where there are any.
        """
        found = evaluate(
            place,
            self.measure,
            self.data,
            self.limit,
            original,
            self.window,
            fields=self.fields,
            languages=self.languages and parts,
            classes=parts,
        )
        return found.model_copy(update={"data": self.called}) if self.called else found


def held_out_measures(task: str, trimmed: bool) -> list[str]:
    """The quality measures that a build of a task asks on held-out text, by name.

    Args:
        trimmed: whether tokens leave, so that what is counted per token does not compare.
    """
    return [name for name in TASKS[task].held_out if not (MEASURES[name].per_token and trimmed)]
