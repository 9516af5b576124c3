"""Two models beside each other, or one alone.

Each subject has a process of its own, since sessions in one process disturb each other, and all
share the same cores; launches.py starts them, several times, and rounds.py times them in turns.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.counters import counters
from edgeprune.measure.bench.launches import PointSamples, time_launches
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.noise import LOUD, judge, turn_spread
from edgeprune.measure.bench.process import Process, choose_cores
from edgeprune.measure.bench.profile import profile_of
from edgeprune.measure.bench.record import (
    Comparison,
    Point,
    Side,
    SideName,
    Speed,
    Sweep,
    Timed,
    TimedPair,
    Times,
)
from edgeprune.measure.bench.resolve import Target, resolve
from edgeprune.measure.bench.rounds import Samples, turn
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.size import bytes_of, compressed_bytes
from edgeprune.measure.bench.stats import median, percentile, ratio_of_launches
from edgeprune.measure.bench.subject import DECODER, ENCODER, Subject
from edgeprune.measure.bench.sustained import sustain
from edgeprune.measure.works import WORKS, Work

_MEMORY_CALLS = 3
# glibc learns while it runs from what size on a freed block goes back to the system. What it learns
# hangs on addresses, which are random: 9 of 60 processes with MiniLM in INT8 peaked 7 % below the
# others. With the size fixed, 64 of 64 agreed to two thousandths. Memory alone: calls get slower.
_STEADY_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def compare(
    candidate: Target,
    baseline: Target,
    settings: BenchSettings | None = None,
) -> Comparison:
    """Measure a candidate beside a baseline, interleaved. resolve.py says what both may be.

    A float baseline also runs with the runtime's slow fusions off, unless the settings say no; the
    faster of the two, by median, is the baseline.

    Raises:
        UserError: a model cannot be opened or run, or the two do different tasks.
    """
    points = [settings or BenchSettings()]
    with ExitStack() as stack:
        return _pair(_enter(stack, (candidate, baseline), points), *points)


def measure(target: Target, settings: BenchSettings | None = None) -> Speed:
    """Measure one model alone.

    Raises:
        UserError: it cannot be opened or run.
    """
    points = [settings or BenchSettings()]
    with ExitStack() as stack:
        return _alone(_enter(stack, (target,), points), *points)


def sweep(
    candidate: Target,
    baseline: Target | None,
    points: Sequence[BenchSettings],
) -> Sweep:
    """Measure at several settings, each as `compare` or `measure` does.

    Raises:
        UserError: a model cannot be opened or run, or the two do different tasks.
    """
    targets = [target for target in (candidate, baseline) if target is not None]
    run = _alone if baseline is None else _pair
    with ExitStack() as stack:
        subjects = _enter(stack, targets, points)
        return Sweep(sweep=tuple(run(subjects, settings) for settings in points))


def curve(
    candidate: Target,
    baseline: Target,
    points: Sequence[BenchSettings],
) -> list[Point]:
    """Time two models at several settings of the same threads and launches; a launch runs them all.

    Faster than `sweep` by what loading and peak memory take.
    """
    with ExitStack() as stack:
        subjects = _enter(stack, (candidate, baseline), points)
        launched = time_launches(subjects, points)
    return [
        Point(settings=settings, measures=_timed_pairs(samples, settings))
        for samples, settings in zip(launched.points, points, strict=True)
    ]


def peak_memory(subject: Subject, settings: BenchSettings) -> int | None:
    """Peak resident bytes of a process that only loads and runs this model; None where a foreign
    program does not tell it.

    Raises:
        UserError: it tells something else.
    """
    cores = choose_cores(settings.threads)
    with Process(subject, settings, cores, environment=_STEADY_MEMORY) as process:
        for kind in subject.kinds:
            turn(process, kind, _MEMORY_CALLS, settings)
        peak = process.ask("memory").get("peak_bytes")
    if peak is not None and not (isinstance(peak, int) and peak >= 0):
        raise UserError(
            f"{subject.name} answered memory with {peak!r}, which is not a number of bytes: see "
            "edgeprune.measure.bench.protocol."
        )
    return peak


def _enter(
    stack: ExitStack, targets: Sequence[Target], points: Sequence[BenchSettings]
) -> list[Subject]:
    """The subjects: the candidate, the baseline if there is one, and its variants."""
    subjects = [stack.enter_context(resolve(target)) for target in targets]
    if len(subjects) > 1:
        _check_alike(*subjects)
        if points[0].tune_baseline and subjects[1].fusable:
            subjects.append(subjects[1].without_slow_fusions())
    for settings in points:  # all, before the first is timed
        for subject in subjects:
            _check_length(subject, settings)
    return subjects


def _alone(subjects: Sequence[Subject], settings: BenchSettings) -> Speed:
    [subject] = subjects
    run = _Run(subjects, settings)
    measures = {
        kind: Timed(candidate=_times(samples, kind, settings))
        for kind, [samples] in run.samples.items()
    }
    more = run.looked_into({"candidate": subject})
    return Speed(**run.shared, candidate=run.side(0), measures=measures, **more)


def _pair(subjects: Sequence[Subject], settings: BenchSettings) -> Comparison:
    run = _Run(subjects, settings)
    chosen = _fastest_baseline(run.samples)
    medians = [median(found.calls) for found in run.samples[subjects[0].kinds[0]][1:]]
    variants = {
        _fusions(variant) or run.runtimes[chosen]: value * 1000
        for variant, value in zip(subjects[1:], medians, strict=True)
    }
    more = run.looked_into({"candidate": subjects[0], "baseline": subjects[chosen]})
    return Comparison(
        **run.shared,
        candidate=run.side(0),
        baseline=run.side(chosen, variants_ms=variants),
        measures=_timed_pairs(run.samples, settings),
        **more,
    )


class _Run:
    """Subjects measured once at some settings."""

    def __init__(self, subjects: Sequence[Subject], settings: BenchSettings) -> None:
        self._subjects, self._settings = subjects, settings
        machine = machine_facts()
        # Peak memory first: it leaves every file in the system's cache, so that loading is timed
        # alike.
        self._memory = [peak_memory(subject, settings) for subject in subjects[:2]]
        launched = time_launches(subjects, [settings])
        [self.samples] = launched.points
        self._loads, self.runtimes = launched.load_seconds, launched.runtimes
        spread = _spread(self.samples)
        self.shared: dict[str, Any] = {
            "settings": settings,
            "cores": None if launched.cores is None else tuple(launched.cores),
            "machine": machine,
            "noise": judge(spread, launched.others),
            "seconds": round(launched.seconds, 1),
        }

    def side(self, place: int, **more: Any) -> Side:
        """The facts of a subject; a variant of the baseline takes the memory that the baseline
        takes."""
        subject = self._subjects[place]
        if self._settings.compressed:
            more = {"compressed_bytes": compressed_bytes(subject.files), **more}
        return Side(
            name=subject.name,
            task=subject.task,
            runtime=self.runtimes[place],
            notes=subject.notes,
            fusions=_fusions(subject),
            model_bytes=bytes_of(subject.files),
            peak_memory_bytes=self._memory[min(place, 1)],
            load_seconds=self._loads[place],
            graph=subject.graph,
            **more,
        )

    def looked_into(self, sides: Mapping[SideName, Subject]) -> dict[str, Any]:
        """The profile, the counters and work without a pause, where the settings ask for them."""
        settings, kinds = self._settings, self._subjects[0].kinds
        cores = choose_cores(settings.threads)
        more: dict[str, Any] = {}
        if settings.profile:
            more["profile"] = {
                kind: {
                    side: profile_of(model, kind, settings, cores) for side, model in sides.items()
                }
                for kind in kinds
            }
        if settings.counters:
            more["counters"] = counters(sides, kinds, settings, cores)
        if settings.sustained:
            more["sustained"] = sustain(sides["candidate"], kinds[-1], settings, cores)
        return more


def _fastest_baseline(samples: PointSamples) -> int:
    """The place of the baseline's faster variant, by the first kind of work: one session runs them
    all."""
    first = next(iter(samples.values()))
    return min(range(1, len(first)), key=lambda place: median(first[place].calls))


def _timed_pairs(samples: PointSamples, settings: BenchSettings) -> dict[Work, TimedPair]:
    baseline, loud = _fastest_baseline(samples), _spread(samples) > LOUD
    return {
        kind: _timed_pair(found[0], found[baseline], kind, settings, loud)
        for kind, found in samples.items()
    }


def _timed_pair(
    candidate: Samples, baseline: Samples, kind: Work, settings: BenchSettings, loud: bool
) -> TimedPair:
    ratio = ratio_of_launches(baseline.turns, candidate.turns, settings.seed)
    spent = (baseline.processor, candidate.processor)
    processor = None
    if loud and spent[0] is not None and spent[1] is not None:
        processor = ratio_of_launches(spent[0], spent[1], settings.seed)
    return TimedPair(
        candidate=_times(candidate, kind, settings),
        baseline=_times(baseline, kind, settings),
        ratio=ratio,
        settled=ratio.width < settings.width,
        processor_ratio=processor,
    )


def _times(samples: Samples, kind: Work, settings: BenchSettings) -> Times:
    calls, turns = samples.calls, samples.turns
    typical = median(calls)
    known = ratio_of_launches(turns, [[1.0] * len(each) for each in turns], settings.seed)
    tokens = settings.batch * (1 if kind == "decode" else settings.tokens)
    more: dict[str, Any] = {}
    if WORKS[kind].unit == "texts":
        more["texts_per_second"] = settings.batch / typical
    if kind == "prompt":  # a call ends when its first token is chosen
        more["first_token_ms"] = typical * 1000
    return Times(
        median_ms=typical * 1000,
        interval_ms=(known.low * 1000, known.high * 1000),
        p95_ms=percentile(calls, 95) * 1000,
        p99_ms=percentile(calls, 99) * 1000,
        calls=len(calls),
        tokens_per_second=tokens / typical,
        **more,
    )


def _spread(samples: PointSamples) -> float:
    return turn_spread(found for each in samples.values() for found in each)


def _fusions(subject: Subject) -> str | None:
    """Which of ONNX Runtime's fusions are on; None in another runtime."""
    if "disabled_optimizers" not in subject.load:
        return None
    if not subject.disabled_optimizers:
        return "default fusions"
    return f"without {' and '.join(subject.disabled_optimizers)}"


def _check_alike(first: Subject, second: Subject) -> None:
    if first.kinds != second.kinds:
        described = (
            f"{model.name} is {'an encoder' if model.kinds == ENCODER else 'a decoder'}"
            f"{' without a key-value cache' if model.kinds == DECODER else ''}"
            for model in (first, second)
        )
        raise UserError(f"{' and '.join(described)}: there is nothing to compare.")
    if first.task and second.task and first.task != second.task:
        raise UserError(
            f"{first.name} does {first.task} and {second.name} {second.task}: there is nothing to "
            "compare; name the original that the first was built from."
        )


def _check_length(subject: Subject, settings: BenchSettings) -> None:
    needed = settings.tokens
    if "decode" in subject.kinds:
        needed += settings.decode_steps + 1
    if subject.max_length is not None and needed > subject.max_length:
        raise UserError(
            f"{subject.name} takes {subject.max_length:,} tokens at most and the benchmark "
            f"needs {needed:,}: lower --tokens."
        )
