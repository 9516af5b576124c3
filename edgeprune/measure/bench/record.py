"""A benchmark's result: what it is made of, as it is written and read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from edgeprune.base.record import Ends, Many, Record
from edgeprune.base.words import medians_contradict
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.works import WORKS, Work

SideName = Literal["candidate", "baseline"]
SIDES: Mapping[SideName, str] = {"baseline": "original", "candidate": "result"}
"""The two models of a benchmark, as tables and pages call them."""
Found = TypeVar("Found")
Count = Annotated[int, Field(ge=0, le=10**15)]
_WORK_SETTINGS = ("tokens", "batch", "threads")


def _of_any_version(given: Any) -> Any:
    """Settings as a file has them: the work must be named, and what is not known is passed over."""
    if not isinstance(given, dict):
        return given
    for name in _WORK_SETTINGS:
        if name not in given:
            raise ValueError(f"{name} is missing")
    known = {name: value for name, value in given.items() if name in BenchSettings.model_fields}
    return {"launches": 1, **known}  # as it was before there were several


UsedSettings = Annotated[BenchSettings, BeforeValidator(_of_any_version)]


class Machine(Record):
    """Processor, cores, load and versions; None where unknown."""

    processor: str | None
    device: str | None = None
    """The board's name, where the system tells it: "Raspberry Pi 5 Model B Rev 1.0"."""
    architecture: str | None = None
    flags: Many[str] | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    memory_bytes: int | None = None
    load_average: Many[float] | None = None
    governor: str | None = None
    system: str | None = None
    python: str | None = None
    onnxruntime: str | None
    edgeprune: str | None = None


class Noise(Record):
    """The noise of the machine; noise.py says what both shares are."""

    turn_spread: float | None = None
    others_share: float | None = None
    limit: float | None = None
    noisy: bool
    why: Many[str]
    """A sentence's part for each share that is beyond the limit."""


class Side(Record):
    """One of the two models: what it is, and what it takes."""

    name: str
    task: str | None = None
    runtime: str | None = None
    notes: Many[str] = ()
    """Sentences on how it was run."""
    fusions: str | None = None
    """Which of ONNX Runtime's fusions were on; None in another runtime."""
    model_bytes: Count | None = None
    peak_memory_bytes: Count | None = None
    """None where a foreign program does not tell it."""
    load_seconds: float | None = None
    compressed_bytes: Count | None = None
    graph: str | None = None
    """A bundle's: the SHA-256 of its graph."""
    variants_ms: dict[str, float] | None = None
    """Of a baseline: the median of the first kind of work by what fusions were on."""


class Times(Record):
    """One side's calls of one kind of work."""

    median_ms: PositiveFloat
    interval_ms: Ends | None = None
    """95 %, of the turns' median."""
    p95_ms: float
    p99_ms: float | None = None
    calls: Count | None = None
    tokens_per_second: float
    texts_per_second: float | None = None
    """Of an encoder."""
    first_token_ms: float | None = None
    """Of a prompt."""


class Ratio(Record):
    """The speedup of the candidate, with its 95 % interval, from `pairs` pairs of turns in
    `launches` launches."""

    value: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat
    pairs: Count | None = None
    launches: Count | None = None

    @property
    def width(self) -> float:
        """The interval's width as a share of the ratio."""
        return (self.high - self.low) / self.value


def _there(both: Mapping[SideName, Found | None]) -> dict[SideName, Found]:
    return {name: found for name, found in both.items() if found is not None}


class Timed(Record):
    """One kind of work, of one model or of both."""

    candidate: Times
    baseline: Times | None = None
    ratio: Ratio | None = None
    settled: bool | None = None
    """Whether the ratio's interval is as narrow as the settings ask for."""
    processor_ratio: Ratio | None = None
    """The ratio of the processor's time, over all threads, where the machine was loud."""

    @property
    def sides(self) -> dict[SideName, Times]:
        """The times that there are, the baseline's first."""
        return _there({"baseline": self.baseline, "candidate": self.candidate})

    @property
    def medians_apart(self) -> float | None:
        """The baseline's median over the candidate's, where it seems to contradict their ratio."""
        if self.baseline is None or self.ratio is None:
            return None
        quotient = self.baseline.median_ms / self.candidate.median_ms
        ends = (self.ratio.low, self.ratio.value, self.ratio.high)
        return quotient if medians_contradict(quotient, *ends) else None


class TimedPair(Timed):
    """One kind of work of both models."""

    baseline: Times
    ratio: Ratio
    settled: bool


class Point(Record):
    """The times of one point of a curve."""

    settings: UsedSettings
    measures: Annotated[Mapping[Work, Timed], Field(min_length=1)]


class Spent(Record):
    """One type of operator: its share of a run (0 to 1), milliseconds and calls in a run."""

    share: float
    ms: float
    count: float


class Profile(Record):
    """The time of one run by operator, the one that takes most first, and what the runtime, and
    profiling itself, take between them."""

    run_ms: float
    operators: dict[str, Spent]
    outside_share: float
    layers: dict[str, float] = Field(default={})
    """Milliseconds of a run by the number of the layer that an operator's name tells; those outside
    under an empty name. Empty where the runtime does not tell it."""


class Missing(Record):
    """Why something was not measured, as a sentence's part."""

    missing: str


class Span(Record):
    """A minute of work without a pause; None of what the system does not tell."""

    median_ms: PositiveFloat
    calls: Count
    megahertz: float | None = None
    """The lowest clock in it."""
    celsius: float | None = None
    """The highest temperature in it."""
    throttled: Many[str] | None = None
    """Why the processor was held back in it."""


class Sustained(Record):
    """The candidate at work without a pause, minute by minute."""

    work: Work
    seconds: float
    spans: Annotated[Many[Span], Field(min_length=1)]


Profiles = Mapping[SideName, Profile | Missing]
Counts = Mapping[Work, Mapping[SideName, dict[str, float]]]
"""Instructions and cycles of a call, by kind of work and side."""


class Speed(Record):
    """One model measured alone: its times at each kind of work, its bytes and its memory."""

    settings: UsedSettings
    cores: Many[int] | None = None
    """The cores that were used; None where processes stayed on none."""
    machine: Machine
    noise: Noise | None = None
    seconds: float | None = None
    """From the first launch to the end of the last: the time that the intervals hold for."""
    candidate: Side
    baseline: Side | None = None
    measures: Annotated[Mapping[Work, Timed], Field(min_length=1)]
    profile: Mapping[Work, Profiles] | None = None
    counters: Missing | Counts | None = None
    sustained: Sustained | None = None
    remote: str | None = None
    """The machine that it was measured on by ssh."""

    @model_validator(mode="after")
    def _texts(self) -> Self:
        for work, found in self.measures.items():
            unit = f"{WORKS[work].unit}_per_second"
            if None in (getattr(side, unit) for side in found.sides.values()):
                raise ValueError(f"times of {work} without {WORKS[work].unit} a second")
        return self

    @property
    def sides(self) -> dict[SideName, Side]:
        """The models that there are, the baseline first."""
        return _there({"baseline": self.baseline, "candidate": self.candidate})

    @property
    def point(self) -> Point:
        """Its times, as a curve has them."""
        return Point(settings=self.settings, measures=self.measures)


class Comparison(Speed):
    """A candidate measured beside a baseline, interleaved."""

    baseline: Side
    measures: Annotated[Mapping[Work, TimedPair], Field(min_length=1)]


class Sweep(Record):
    """The results at several settings."""

    sweep: Many[Speed]


def known_profiles(profile: Mapping[Work, Profiles]) -> dict[Work, dict[SideName, Profile]]:
    """The profiles that there are, the baseline's first; kinds of work without any are left out."""
    known: dict[Work, dict[SideName, Profile]] = {}
    for work, sides in profile.items():
        for side in ("baseline", "candidate"):
            if isinstance(found := sides.get(side), Profile):
                known.setdefault(work, {})[side] = found
    return known


def read_speed(content: Any, file: Path, remedy: str) -> Speed:
    """Read what `compare` or `measure` wrote.

    Raises:
        UserError: it is damaged.
    """
    paired = isinstance(content, dict) and "baseline" in content
    return (Comparison if paired else Speed).from_json(content, file, remedy)
