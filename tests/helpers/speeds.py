"""A benchmark's result, without a benchmark."""

from edgeprune.measure.bench.record import (
    Comparison,
    Machine,
    Ratio,
    Side,
    TimedPair,
    Times,
)
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.works import Work


def make_speed(task: str) -> Comparison:
    """What a benchmark might have found; here no time is of interest."""
    times = Times(
        median_ms=2.0,
        interval_ms=(1.5, 2.5),
        p95_ms=3.0,
        texts_per_second=500.0,
        tokens_per_second=6000.0,
    )
    ratio = Ratio(value=2.0, low=1.75, high=2.25)
    pair = TimedPair(baseline=times, candidate=times, ratio=ratio, settled=True)
    return Comparison(
        settings=BenchSettings(tokens=12),
        machine=Machine(processor="a processor", onnxruntime="1"),
        baseline=make_side("original"),
        candidate=make_side("bundle"),
        measures=dict.fromkeys(WORKS[task], pair),
    )


def make_side(name: str, model_bytes: int = 3_000_000) -> Side:
    return Side(name=name, model_bytes=model_bytes, peak_memory_bytes=5_000_000)


WORKS: dict[str, tuple[Work, ...]] = {
    "feature-extraction": ("encoder",),
    "text-classification": ("encoder",),
    "text-generation": ("prompt", "decode"),
}


def named_by_side(speed: Comparison) -> Comparison:
    """The same of models that are called candidate and baseline."""
    sides = {name: getattr(speed, name) for name in ("baseline", "candidate")}
    named = {name: side.model_copy(update={"name": name}) for name, side in sides.items()}
    return speed.model_copy(update=named)
