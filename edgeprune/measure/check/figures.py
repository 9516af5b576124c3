"""A model's figures: measured now, or read from a file of an earlier run.

The file is what `edgeprune check --save` or `edgeprune bench --json` wrote. Bench's has no operator
counts and no quality, and what it lacks is not compared.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from edgeprune.base.errors import UserError
from edgeprune.base.record import Many, Record
from edgeprune.export.opened import name_of
from edgeprune.measure.bench.machine import COMPARABLE
from edgeprune.measure.bench.record import SideName, Speed
from edgeprune.measure.works import Work
from edgeprune.runtime.bundle import MANIFEST, Bundle
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.runtime.session import bundle_session

FORMAT_VERSION = 1
_SAVE = "save one with `edgeprune check BUNDLE --save FILE`."
_WORK = ("batch", "tokens", "decode_steps", "threads")


PositiveEnds = Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)]


class _Saved(Record):
    """Written whole: what is not known, as null."""

    writes_defaults: ClassVar[bool] = True


class Latency(_Saved):
    """Milliseconds of one call: the median and its 95 % interval (None: not saved)."""

    median_ms: PositiveFloat
    interval_ms: PositiveEnds | None = None


class Operators(_Saved):
    """The count of each operator: in the file, and in the graph that the runtime runs."""

    written: dict[str, PositiveInt]
    run: dict[str, PositiveInt] = Field(min_length=1)


class Quality(_Saved):
    """A quality measure's values, and what they were measured on.

    `digest` is of the data and the rows taken; where it differs, values are of other data.
    `sample` says which part of the data was taken, where a limit left some out.
    """

    task: str
    data: str
    digest: str
    values: dict[str, float] = Field(min_length=1)
    sample: str = ""
    classes: dict[str, float] = Field(default={})
    """F1 of each class, where rows have classes."""


class _Scored(Record):
    task: str
    data: str
    values: dict[str, float] = Field(min_length=1)


class _Stage(Record):
    name: str | None = None
    quality: Many[_Scored] = ()


class _Recipe(Record):
    text: dict[str, Any] = Field(default={})
    seed: Any = None


class _Built(Record):
    """The facts of the build in a manifest."""

    stages: Many[_Stage] = ()
    text: dict[str, Any] = Field(default={})
    recipe: _Recipe = _Recipe()


@dataclass(frozen=True)
class Identity:
    """The identity of a model: its name here, its task, and the SHA-256 of what it was made
    from."""

    name: str
    task: str
    source: str | None


class Conditions(_Saved):
    """Of speed and memory: the machine's facts and the work; None where unknown."""

    processor: str | None = None
    architecture: str | None = None
    flags: Many[str] | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    governor: str | None = None
    onnxruntime: str | None = None
    batch: int | None = None
    tokens: int | None = None
    decode_steps: int | None = None
    threads: int | None = None

    @classmethod
    def of(cls, result: Speed) -> Self:
        """Those of a benchmark."""
        machine = {name: getattr(result.machine, name) for name in COMPARABLE}
        work = {name: getattr(result.settings, name) for name in _WORK}
        return cls(**machine, **work)


class Figures(_Saved):
    """The figures of one model, as the gate compares them."""

    format_version: int = FORMAT_VERSION
    name: str
    task: str
    source: str | None = None
    variant: str | None = None  # which of a bundle's graphs
    model_bytes: PositiveInt
    peak_memory_bytes: PositiveInt
    speed: dict[Work, Latency]
    operators: Operators | None = None
    as_built: Many[Quality] = ()  # what the build measured against the original
    quality: Quality | None = None
    conditions: Conditions

    @property
    def identity(self) -> Identity:
        return Identity(self.name, self.task, self.source)


def identify(bundle: Bundle, place: str | Path) -> Identity:
    """The identity that a bundle states, before anything is measured."""
    source = bundle.manifest.get("source")
    sha256 = source.get("sha256") if isinstance(source, dict) else None
    return Identity(name_of(place), bundle.task, sha256 if isinstance(sha256, str) else None)


def figures_of(
    bundle: Bundle, name: str, result: Speed, side: SideName, quality: Quality | None
) -> Figures:
    """The figures of a bundle that was benchmarked.

    Args:
        side: the part of the result that tells of this bundle.
    """
    return Figures(
        name=name,
        source=identify(bundle, name).source,
        variant=bundle.variant or None,
        **_speed_figures(result, side),
        operators=count_operators(bundle),
        as_built=measured_as_built(bundle),
        quality=quality,
    )


def read_figures(path: Path) -> Figures:
    """The figures in a file that `check --save` or `bench --json` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a saved result: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a saved result (it holds no JSON object): {_SAVE}")
    version = found.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} was saved by a newer edgeprune (format {version}; this one reads up to "
            f"{FORMAT_VERSION}): install a newer edgeprune here."
        )
    if "sweep" in found:
        raise UserError(f"{path} holds a sweep: save one point of it with `edgeprune bench`.")
    try:
        return _from_bench(found) if "measures" in found else Figures.model_validate(found)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path} is not a saved result ({where}): {_SAVE}") from None


def differing_conditions(
    candidate: Figures, baseline: Figures, names: tuple[str, ...] = ()
) -> list[str]:
    """The conditions that differ between two runs, of those that speed and memory need to be the
    same.

    `names` limits it to some facts.
    """
    return [
        name
        for name in names or (*COMPARABLE, *_WORK)
        if getattr(candidate.conditions, name) != getattr(baseline.conditions, name)
    ]


def count_operators(bundle: Bundle) -> Operators:
    """Count operators before and after the runtime's own optimizer, in a default session.

    The optimizer's graph is written to a temporary folder, weights and all.
    """
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        path = Path(scratch) / "optimized.onnx"
        # Stock: the same count wherever it is taken.
        bundle_session(bundle, threads=1, optimized_path=path, stock=True)
        run = read_outline(path).operators
    return Operators(written=dict(bundle.outline.operators), run=dict(run))


def _speed_figures(result: Speed, side: SideName) -> dict[str, Any]:
    """The figures of one side of a benchmark."""
    about = result.sides[side]
    return {
        "task": about.task,
        "model_bytes": about.model_bytes,
        "peak_memory_bytes": about.peak_memory_bytes,
        "speed": {
            work: Latency(median_ms=times.median_ms, interval_ms=times.interval_ms)
            for work, found in result.measures.items()
            if (times := found.sides.get(side))
        },
        "conditions": Conditions.of(result),
    }


def _from_bench(result: dict[str, Any]) -> Figures:
    """The candidate's figures, of what `bench --json` wrote.

    Raises:
        ValidationError: it is damaged, or tells too little.
    """
    speed = Speed.model_validate(result)
    return Figures(name=speed.candidate.name, **_speed_figures(speed, "candidate"))


def measured_as_built(bundle: Bundle) -> tuple[Quality, ...]:
    """The quality that the build itself measured on the text that it held out; none of a model that
    edgeprune did not build.

    Raises:
        UserError: the manifest is damaged where it tells of the build.
    """
    file, remedy = bundle.folder / MANIFEST, "copy or build the bundle again"
    manifest = {**bundle.manifest, "stages": bundle.stages}
    built = _Built.from_json(manifest, file, remedy)
    # The same text, wherever it lay, cut into the same held-out part by the same seed.
    cutting = {key: value for key, value in built.recipe.text.items() if key != "data"}
    digest = _digest(built.text.get("digest"), cutting, built.recipe.seed)
    return tuple(
        Quality(task=found.task, data=found.data, digest=digest, values=found.values)
        for stage in built.stages
        if stage.name == "measure"
        for found in stage.quality
        if found.data == "held-out text"
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
