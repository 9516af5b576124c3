"""Time and result of builds that were made: of the recipes that ship, where `benchmarks/recipes.py`
built them (it writes builds.json beside this file), and of what an output folder keeps.

Figures of one model on one machine, shown as no more than that."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_json
from edgeprune.base.places import called
from edgeprune.base.words import listed, number
from edgeprune.measure.works import WORKS, Work
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.recipe import Recipe, read_recipe, shipped
from edgeprune.report.figures import faster
from edgeprune.report.made import model_name
from edgeprune.report.records import BuildRecord, Known, Quality, open_record

MEASURED = Path(__file__).with_name("builds.json")
# Settings that change neither what a build does to a model nor how long that takes.
_APART = frozenset({"description", "model", "seed", "target", "text", "measure", "require"})


@dataclass(frozen=True)
class Built:
    """One build of a recipe as it ships."""

    model: str
    processor: str
    cores: int
    minutes: float
    gigabytes: float
    """Peak memory of the build."""
    megabytes: float
    """Graph and data of the result."""
    speed: dict[Work, list[float]]
    """By kind of work: the ratio to the original, and its 95 % interval's ends."""
    quality: list[Any]
    """The measured value's name, the original's value (None: it has none) and the result's."""
    stages: dict[str, float]
    """Seconds of each stage."""

    @property
    def where(self) -> str:
        """Of what, and on what."""
        return f"{self.model} on {self.cores} cores of {self.processor}"

    @property
    def faster(self) -> str:
        """The speed, a ratio a kind of work."""
        return listed(
            [f"{WORKS[work].several}{faster(Known(*ratio))}" for work, ratio in self.speed.items()]
        )

    @property
    def changed(self) -> str:
        """The quality before and after."""
        what, original, result = self.quality
        before = "" if original is None else f"{number(original)} to "
        return f"{what} {before}{number(result)}"

    @property
    def told(self) -> str:
        """All of it in a sentence."""
        return (
            f"With {self.where}: {self.faster}, {self.changed}, {self.megabytes:.1f} MB; built in "
            f"{self.minutes:.1f} minutes and {self.gigabytes:.1f} GB of memory."
        )


class Pace:
    """The time left of a build, from a build alike and from what its stages took so far."""

    def __init__(self, stages: Mapping[str, float]) -> None:
        """`stages` are the seconds of each stage of the build alike; empty where there is none."""
        self._known = stages
        self._took = self._was = 0.0

    def took(self, stage: str, seconds: float) -> None:
        """Add a stage that has run."""
        if stage in self._known:
            self._took += seconds
            self._was += self._known[stage]

    def left(self, stages: Sequence[str]) -> float | None:
        """Seconds that these take, at the pace so far; None where one of them was not measured."""
        if not all(stage in self._known for stage in stages):
            return None
        pace = self._took / self._was if self._was else 1.0
        return pace * sum(self._known[stage] for stage in stages)


def read(file: Path = MEASURED) -> dict[str, Built]:
    """By recipe; nothing of those that were not measured."""
    if not file.exists():
        return {}
    return {name: Built(**found) for name, found in read_json(file).items()}


def built(recipe: Recipe) -> Built | None:
    """The measured build of a recipe, if its stages are set as they ship."""
    if recipe.name not in shipped():
        return None
    return read().get(recipe.name) if _alike(recipe, read_recipe(recipe.name)) else None


def kept(build: Build) -> Built | None:
    """The build of this very model by these very stages that the output folder keeps, if it keeps
    one: a report of another version is passed over."""
    try:
        record = open_record(build.context.output)
        recipe = Recipe.model_validate(record.recipe)
        if record.model != called(build.context.checkpoint.name):
            return None
        return _of_record(record) if _alike(recipe, build.recipe) else None
    except (UserError, ValueError, KeyError):
        return None


def _alike(recipe: Recipe, other: Recipe) -> bool:
    return all(
        getattr(recipe, key) == getattr(other, key)
        for key in Recipe.model_fields
        if key not in _APART
    )


def _of_record(record: BuildRecord) -> Built:
    stages, quality = record.content["stages"], Quality.of(record.main_quality)
    machine = record.speed.machine
    return Built(
        record.model,
        machine.processor or "",
        machine.physical_cores or 0,
        round(sum(stage["seconds"] for stage in stages) / 60, 1),
        round(max(stage["peak_megabytes"] for stage in stages) / 1024, 1),
        round((record.speed.candidate.model_bytes or 0) / 1e6, 1),
        {
            work: [found.ratio.value, found.ratio.low, found.ratio.high]
            for work, found in record.speed.measures.items()
        },
        [quality.words, quality.original and quality.original.value, quality.value.value],
        {stage["name"]: stage["seconds"] for stage in stages},
    )


def write(rows: Mapping[str, Mapping[str, Any]], file: Path = MEASURED) -> None:
    """Keep what is shown of the benchmark's rows, those of the recipes as they ship."""
    kept = {name: asdict(_built(rows[name])) for name in sorted(shipped()) if name in rows}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _built(row: Mapping[str, Any]) -> Built:
    speed, quality = row["speed"], row["quality"]
    key, value = next(iter(quality["values"].items()))
    return Built(
        model_name(row["row"]["model"] or row["recipe"]["model"]),
        speed["machine"]["processor"],
        speed["machine"]["physical_cores"],
        round(row["build_seconds"] / 60, 1),
        round(row["build_peak_megabytes"] / 1024, 1),
        round(speed["candidate"]["model_bytes"] / 1e6, 1),
        {
            work: [round(found["ratio"][end], 3) for end in ("value", "low", "high")]
            for work, found in speed["measures"].items()
        },
        [key.replace("_", " "), round(quality["original"][key], 4), round(value, 4)],
        {name: round(seconds, 1) for name, seconds in row["stage_seconds"].items()},
    )
