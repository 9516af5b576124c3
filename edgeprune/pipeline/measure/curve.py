"""Latency at several lengths of text: how the gain depends on them."""

from collections.abc import Sequence
from pathlib import Path

from edgeprune.measure.bench.compare import curve
from edgeprune.measure.bench.record import Point
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.runtime.bundle import Bundle

_LAUNCHES = 4
_DECODE_STEPS = 8


def measure_curve(
    source: Path, original: Path, bench: BenchSettings, lengths: Sequence[int]
) -> list[Point]:
    """Time a bundle and its original at each of `lengths`, in half of the time that `bench` has.

    Lengths that the model does not take are left out.
    """
    longest = Bundle.open(original).max_length
    fitting = [tokens for tokens in lengths if longest is None or tokens + _DECODE_STEPS < longest]
    points = [
        bench.model_copy(
            update={
                "tokens": tokens,
                "decode_steps": _DECODE_STEPS,
                "launches": min(_LAUNCHES, bench.launches),
                "time_limit": bench.time_limit / 2 / len(fitting),
            }
        )
        for tokens in fitting
    ]
    return curve(source, original, points) if points else []
