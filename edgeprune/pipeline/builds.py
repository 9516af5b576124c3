"""Time and result of the recipes that ship, where `benchmarks/recipes.py` built them: it writes
builds.json beside this file. Figures of one model on one machine, shown as no more than that."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.files import read_json
from edgeprune.base.words import listed, number
from edgeprune.measure.works import WORKS, Work
from edgeprune.pipeline.recipe import Recipe, read_recipe, shipped
from edgeprune.report.figures import faster
from edgeprune.report.made import model_name
from edgeprune.report.records import Known

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
    """The measured value's name, the original's value and the result's."""

    @property
    def where(self) -> str:
        """Of what, and on what."""
        return f"{self.model} on {self.cores} cores of {self.processor}"

    @property
    def reached(self) -> str:
        """Speed, quality and size."""
        speed = [
            f"{WORKS[work].several}{faster(Known(*ratio)).text}"
            for work, ratio in self.speed.items()
        ]
        what, original, result = self.quality
        change = f"{what} {number(original)} to {number(result)}"
        return f"{listed(speed)}, {change}, {self.megabytes:.1f} MB"

    @property
    def took(self) -> str:
        """Time and memory of the build."""
        return f"built in {self.minutes:.1f} minutes and {self.gigabytes:.1f} GB of memory"


def read(file: Path = MEASURED) -> dict[str, Built]:
    """By recipe; nothing of those that were not measured."""
    if not file.exists():
        return {}
    return {name: Built(**found) for name, found in read_json(file).items()}


def built(recipe: Recipe) -> Built | None:
    """The measured build of a recipe, if its stages are set as they ship."""
    if recipe.name not in shipped():
        return None
    as_shipped = read_recipe(recipe.name)
    same = all(
        getattr(recipe, key) == getattr(as_shipped, key)
        for key in Recipe.model_fields
        if key not in _APART
    )
    return read().get(recipe.name) if same else None


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
    )
