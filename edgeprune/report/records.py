"""The records of a build, as the report reads them.

Builds of earlier versions recorded less: what is missing is told, never guessed.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.files import load_json
from edgeprune.measure.bench.record import Comparison, Ratio, Speed
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.measure.record import Measured
from edgeprune.measure.works import Work
from edgeprune.report.schema import Content
from edgeprune.runtime.bundle import MANIFEST

REPORT = "report.json"
_REMEDY = "copy the build again, or build it again"
# What a measure that compares with the original says of the original itself.
_IDEAL = {"mean_cosine": 1.0, "kl_nats_per_token": 0.0}


@dataclass(frozen=True)
class Known:
    """A measured value with its 95 % interval; low and high are the value's own without one."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, interval: tuple[float, float] | None = None) -> "Known":
        low, high = interval or (value, value)
        return cls(value, low, high)

    @property
    def exact(self) -> bool:
        """Whether there is no interval."""
        return self.low == self.high == self.value


@dataclass(frozen=True)
class Quality:
    """The main value of one quality measure, and the original's where that is its own."""

    measure: str
    key: str
    data: str
    value: Known
    original: Known | None
    difference: Known | None

    @classmethod
    def of(cls, found: Evaluation) -> "Quality":
        """From what `evaluate` returned."""
        key = next(iter(found.values))
        original = difference = None
        if found.original and found.difference:
            original = Known.of(found.original[key])
            change = (found.difference_interval or {}).get(key)
            difference = Known.of(found.difference[key], change)
        elif key in _IDEAL:
            original = Known.of(_IDEAL[key])
        value = Known.of(found.values[key], (found.interval or {}).get(key))
        return cls(found.task, key, data_name(found.data), value, original, difference)

    @property
    def beside(self) -> Known:
        """The value with what is uncertain beside the original: of both models' same rows, where
        they were paired."""
        if self.original is None or self.difference is None or self.difference.exact:
            return self.value
        low, high = self.difference.low, self.difference.high
        return Known(self.value.value, self.original.value + low, self.original.value + high)

    @property
    def words(self) -> str:
        """The value's name, in words."""
        return self.key.replace("_", " ")


@dataclass(frozen=True)
class BuildRecord:
    """One build: its name among others, and the content of its report.json or manifest."""

    name: str
    content: dict[str, Any]
    later_speeds: tuple[Speed, ...] = ()
    """Benchmarks of its bundle that were made after the build."""
    later_quality: tuple[Evaluation, ...] = ()
    """Quality measures likewise."""

    def stage(self, name: str) -> dict[str, Any]:
        """The record of a stage; empty where it did not run."""
        stages = self.content.get("stages", [])
        return next((each for each in stages if each["name"] == name), {})

    @property
    def recipe(self) -> dict[str, Any]:
        return self.content.get("recipe", {})

    @property
    def task(self) -> str:
        return self.content["task"]

    @property
    def model(self) -> str:
        """The name of the original."""
        return self.content["source"]["model"]

    @property
    def built(self) -> dict[str, str]:
        """The day and the minute of the build ("at") and the "command" that repeats it; empty of a
        manifest, which is the same whenever it is written, and of builds of earlier versions."""
        return self.content.get("built", {})

    @cached_property
    def measured(self) -> Measured:
        """The build's own measurement."""
        return Measured.model_validate(self.stage("measure"))

    @property
    def speed(self) -> Comparison:
        """Result beside original."""
        return self.measured.speed

    @property
    def quality(self) -> list[Evaluation]:
        """Every quality measure."""
        return [*self.measured.quality, *self.later_quality]

    @property
    def main_quality(self) -> Evaluation:
        """The last on the user's own data where there is one, else the first on held-out text."""
        own = self.later_quality or self.recipe.get("measure", {}).get("task")
        return self.quality[-1 if own else 0]

    @property
    def works(self) -> list[Work]:
        """The kinds of work that were timed: encoder, or prompt and decode."""
        return list(self.speed.measures)


def open_record(folder: Path, name: str | None = None) -> BuildRecord:
    """The record of a build's output folder, or of a bundle.

    Args:
        name: what to call it; the folder's name where not given.

    Raises:
        UserError: the folder holds no build, its record is damaged, or nothing was measured.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name one that `edgeprune build` wrote.")
    for file in (folder / REPORT, folder / MANIFEST):
        if file.is_file():
            break
    else:
        raise UserError(
            f"{folder} holds neither {REPORT} nor {MANIFEST}: name a folder that `edgeprune build` "
            "wrote, or a bundle."
        )
    record = BuildRecord(name or folder.resolve().name, read_content(file))
    Content.from_json(record.content, file, _REMEDY)
    if not record.stage("measure") or "source" not in record.content:
        raise UserError(f"{file} records no measurement: it was not written by a whole build.")
    return record


def ratio(found: Ratio) -> Known:
    """The speedup of a candidate over its baseline."""
    return Known(found.value, found.low, found.high)


def read_content(file: Path) -> dict[str, Any]:
    """The object in a result file; an empty one where it holds something else.

    Raises:
        UserError: the file is missing, or is not JSON.
    """
    content = load_json(file)
    return content if isinstance(content, dict) else {}


def data_name(data: str) -> str:
    """The name of a quality measure's data: a file's without its folder."""
    return data.rsplit("/", 1)[-1]
