"""The verdict on a build in a line: how much faster, what it lost, and whether to ship it."""

from dataclasses import dataclass

from edgeprune.base.words import listed
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER
from edgeprune.measure.requirements import Loss, loss_of
from edgeprune.measure.works import WORKS
from edgeprune.report.figures import cell, faster
from edgeprune.report.records import BuildRecord, Quality, ratio
from edgeprune.report.story import requirements


@dataclass(frozen=True)
class Headline:
    """The result of a build, and what follows from it."""

    reached: str
    decision: str = ""
    """"ship", or what speaks against it, or what is missing to say so."""
    tone: str = ""
    """"better" where it should be shipped, "worse" where it should not."""

    def __str__(self) -> str:
        return f"{self.reached}: {self.decision}"


def headline(record: BuildRecord) -> Headline:
    """The verdict: by what the recipe requires; where it requires nothing, what would be needed."""
    reached = f"{_speed(record)}, {_quality(record)}"
    judged = requirements(record)
    if missed := [each.sentence for each in judged if not each.met]:
        return Headline(reached, f"do not ship: {'; '.join(missed)}", "worse")
    if judged:
        return Headline(reached, "ship", "better")
    ratios = [ratio(found.ratio) for found in record.speed.measures.values()]
    if not any(faster(each).tone == "better" for each in ratios):
        return Headline(reached, "do not ship: it is not faster than the original", "worse")
    if not own_task(record):
        missing = "its own task was not measured (measure.task and measure.data)"
        return Headline(reached, f"not yet to be shipped: {missing}")
    missing = "the recipe says not what it must reach (require)"
    return Headline(reached, f"yours to decide: {missing}")


def own_task(record: BuildRecord) -> bool:
    """Whether quality was measured on data of the user's."""
    return bool(record.later_quality or record.recipe.get("measure", {}).get("task"))


def _speed(record: BuildRecord) -> str:
    words = [
        f"{WORKS[work].several}{faster(ratio(found.ratio)).text}"
        for work, found in record.speed.measures.items()
    ]
    noisy = record.speed.noise and record.speed.noise.noisy
    return f"{listed(words)}{' (on a noisy machine)' if noisy else ''}"


def _quality(record: BuildRecord) -> str:
    """The main quality's loss; of a measure that is no model's own, its value."""
    found = record.main_quality
    if found.original and found.difference:
        return _lost(next(iter(found.difference)), loss_of(found))
    quality = Quality.of(found)
    return f"{quality.words} {cell(quality.value)} to the original"


def _lost(key: str, loss: Loss) -> str:
    """A loss in words: accuracy 0.6 points lower (0.3 to 0.9)."""
    low, high = loss.interval or (loss.value, loss.value)
    sign = -1 if loss.value < 0 else 1
    higher = (loss.value >= 0) == (key in LOWER_IS_BETTER)
    ends = sorted((sign * low, sign * high))
    digits = 1 if abs(loss.value) >= 0.1 else 2
    shown = [f"{figure:.{digits}f}" for figure in (sign * loss.value, *ends)]
    unit = loss.unit or " points"
    interval = f" ({shown[1]} to {shown[2]})" if loss.interval else ""
    return f"{loss.of} {shown[0]}{unit} {'higher' if higher else 'lower'}{interval}"
