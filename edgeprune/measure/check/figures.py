"""A model's figures: measured now, or read from a file of an earlier run.

The file is what `edgeprune check --save` or `edgeprune bench --json` wrote. Bench's has no operator
counts and no quality, and what it lacks is not compared.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from edgeprune.base.errors import UserError
from edgeprune.base.files import check
from edgeprune.measure.bench.contestants import place_name
from edgeprune.measure.bench.machine import COMPARABLE
from edgeprune.runtime.bundle import MANIFEST, Bundle
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.runtime.session import open_session

FORMAT_VERSION = 1
_WORK = ("batch", "tokens", "decode_steps", "threads")


class _Read(BaseModel):
    """Read from a user's file: checked, and keys of newer releases are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Latency(_Read):
    """Milliseconds of one call: the median and its 95 % interval (None: not saved)."""

    median_ms: PositiveFloat
    interval_ms: tuple[PositiveFloat, PositiveFloat] | None = None


class Operators(_Read):
    """How often each operator occurs: in the file, and in the graph that the runtime runs."""

    written: dict[str, PositiveInt]
    run: dict[str, PositiveInt] = Field(min_length=1)


class Quality(_Read):
    """A quality measure's values, and what they were measured on.

    `digest` is of the data and the rows taken; where it differs, values are of other data.
    `sample` says which part of the data was taken, where a limit left some out.
    """

    task: str
    data: str
    digest: str
    values: dict[str, float] = Field(min_length=1)
    sample: str = ""


class _Scored(_Read):
    task: str
    data: str
    values: dict[str, float] = Field(min_length=1)


class _Stage(_Read):
    name: str | None = None
    quality: tuple[_Scored, ...] = ()


class _Recipe(_Read):
    text: dict[str, Any] = {}
    seed: Any = None


class _Built(_Read):
    """What a manifest tells of the build."""

    stages: tuple[_Stage, ...] = ()
    text: dict[str, Any] = {}
    recipe: _Recipe = _Recipe()


@dataclass(frozen=True)
class Identity:
    """What a model is: its name here, what it does, and the SHA-256 of what it was made from."""

    name: str
    task: str
    source: str | None


class Figures(_Read):
    """What the gate knows of one model."""

    format_version: int = FORMAT_VERSION
    name: str
    task: str
    source: str | None = None
    model_bytes: PositiveInt
    peak_memory_bytes: PositiveInt
    speed: dict[str, Latency]
    operators: Operators | None = None
    as_built: tuple[Quality, ...] = ()  # what the build measured against the original
    quality: Quality | None = None
    conditions: dict[str, Any]  # of speed and memory: the machine's facts and the work

    @property
    def identity(self) -> Identity:
        return Identity(self.name, self.task, self.source)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def identify(bundle: Bundle, place: str | Path) -> Identity:
    """What a bundle says that it is, before anything is measured."""
    source = bundle.manifest.get("source")
    sha256 = source.get("sha256") if isinstance(source, dict) else None
    return Identity(place_name(place), bundle.task, sha256 if isinstance(sha256, str) else None)


def figures_of(
    bundle: Bundle, name: str, result: dict[str, Any], side: str, quality: Quality | None
) -> Figures:
    """The figures of a bundle that was benchmarked.

    Args:
        result: what `bench.compare.compare` or `measure` returned.
        side: the part of it that tells of this bundle: "candidate" or "baseline".
    """
    about = result[side]
    return Figures(
        name=name,
        task=about["task"],
        source=identify(bundle, name).source,
        model_bytes=about["model_bytes"],
        peak_memory_bytes=about["peak_memory_bytes"],
        speed={kind: found[side] for kind, found in result["measures"].items()},
        operators=count_operators(bundle),
        as_built=measured_as_built(bundle),
        quality=quality,
        conditions=_conditions(result),
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
        raise UserError(f"{path} is no saved result: it holds no JSON object.")
    version = found.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} was saved by a newer edgeprune (format {version}; this one reads up to "
            f"{FORMAT_VERSION}): install a newer edgeprune here."
        )
    if "sweep" in found:
        raise UserError(f"{path} holds a sweep: save one point of it with `edgeprune bench`.")
    try:
        return Figures.model_validate(_from_bench(found) if "measures" in found else found)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        where = ""
        if isinstance(error, ValidationError):
            where = f" ({'.'.join(map(str, error.errors()[0]['loc']))})"
        raise UserError(
            f"{path} is no saved result{where}: save one with `edgeprune check BUNDLE --save FILE`."
        ) from None


def differing_conditions(ours: Figures, theirs: Figures, names: tuple[str, ...] = ()) -> list[str]:
    """What differs between two runs that must agree for speed and memory to be compared.

    `names` limits it to some facts.
    """
    return [
        name
        for name in names or (*COMPARABLE, *_WORK)
        if ours.conditions.get(name) != theirs.conditions.get(name)
    ]


def count_operators(bundle: Bundle) -> Operators:
    """Count operators before and after the runtime's own optimizer, in a default session.

    The optimizer's graph is written to a temporary folder, weights and all.
    """
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        path = Path(scratch) / "optimized.onnx"
        open_session(
            bundle.model_path,
            threads=1,
            minimum_onnxruntime=bundle.minimum_onnxruntime,
            optimized_path=path,
            stock=True,  # the same count wherever it is taken
        )
        run = read_outline(path).operators
    return Operators(written=dict(bundle.outline.operators), run=dict(run))


def _conditions(result: dict[str, Any]) -> dict[str, Any]:
    machine, settings = result["machine"], result["settings"]
    return {name: machine.get(name) for name in COMPARABLE} | {
        name: settings[name] for name in _WORK
    }


def _from_bench(result: dict[str, Any]) -> dict[str, Any]:
    side = result["candidate"]
    return {
        "name": side["name"],
        "task": side["task"],
        "model_bytes": side["model_bytes"],
        "peak_memory_bytes": side["peak_memory_bytes"],
        "speed": {kind: found["candidate"] for kind, found in result["measures"].items()},
        "conditions": _conditions(result),
    }


def measured_as_built(bundle: Bundle) -> tuple[Quality, ...]:
    """What the build's own measurement found on the text that it held out; none of a model that
    edgeprune did not build.

    Raises:
        UserError: the manifest is damaged where it tells of the build.
    """
    file, remedy = bundle.folder / MANIFEST, "copy or build the bundle again"
    built = check(_Built, bundle.manifest, file, remedy)
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
