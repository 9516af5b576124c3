"""Work without a pause: whether a device keeps its speed once it is warm.

A board without a fan lowers its clock after minutes; a short benchmark measures the minute before
that. The model is called without end, and each minute has its median, with the lowest clock and the
highest temperature that the system told in it.
"""

import time

from edgeprune.base.progress import track
from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.record import Span, Sustained
from edgeprune.measure.bench.rounds import turn, turn_calls
from edgeprune.measure.bench.sensors import Reading, read_sensors
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import median
from edgeprune.measure.bench.subject import Subject
from edgeprune.measure.works import Work

_SPAN_SECONDS = 60.0
_FEWEST_SPANS = 10


def sustain(
    subject: Subject, kind: Work, settings: BenchSettings, cores: list[int] | None
) -> Sustained:
    """Call a model for `settings.sustained` seconds: the median of each minute, or of each tenth of
    a shorter time.

    Raises:
        UserError: it cannot be loaded or run.
    """
    whole = settings.sustained
    count = max(_FEWEST_SPANS, round(whole / _SPAN_SECONDS))
    with Process(subject, settings, cores) as process:
        calls = turn_calls(process, kind, settings)
        started = time.monotonic()
        spans = []
        for number in track(range(1, count + 1), f"sustained {kind}", count):
            seconds: list[float] = []
            readings: list[Reading] = []
            while not seconds or time.monotonic() - started < whole * number / count:
                seconds += turn(process, kind, calls, settings).seconds
                readings.append(read_sensors())
            spans.append(_span(seconds, readings))
    return Sustained(work=kind, seconds=time.monotonic() - started, spans=tuple(spans))


def _span(seconds: list[float], readings: list[Reading]) -> Span:
    clocks = [each.megahertz for each in readings if each.megahertz is not None]
    heats = [each.celsius for each in readings if each.celsius is not None]
    held = [each.throttled for each in readings if each.throttled is not None]
    return Span(
        median_ms=median(seconds) * 1000,
        calls=len(seconds),
        megahertz=min(clocks, default=None),
        celsius=max(heats, default=None),
        throttled=tuple(dict.fromkeys(why for each in held for why in each)) if held else None,
    )
