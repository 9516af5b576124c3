"""Two models beside each other, or one alone.

Each contestant has a process of its own, since sessions in one process disturb each other, and all
share the same cores. They are called in turns A B B A, so that a machine that warms up or slows
down treats them alike; the ratio is the median over pairs of neighbouring turns.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.bench.contestants import Contestant, opened, place_name
from edgeprune.bench.machine import machine_facts
from edgeprune.bench.process import Process, choose_cores
from edgeprune.bench.settings import BenchSettings
from edgeprune.bench.stats import Ratio, median, paired_ratio, percentile
from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.progress import track

# ONNX Runtime's threads spin for a while after a call and would take the next contestant's core.
_REST_SECONDS = 0.05
_WARM_SECONDS = 0.5
_MEMORY_CALLS = 3
# glibc learns while it runs from what size on a freed block goes back to the system. What it learns
# hangs on addresses, which are random: 9 of 60 processes with MiniLM in INT8 peaked 7 % below the
# others. With the size fixed, 64 of 64 agreed to two thousandths. Memory alone: calls get slower.
_STEADY_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
_MAX_CALLS_A_TURN = 1000


def compare(
    candidate: str | Path | Bundle,
    baseline: str | Path | Bundle,
    settings: BenchSettings | None = None,
) -> dict[str, Any]:
    """Measure a candidate beside a baseline, interleaved.

    A float baseline also runs with the runtime's slow fusions off, unless the settings say no; the
    faster of the two, by median, is the baseline.

    Returns:
        A dict of plain JSON values: "settings", "machine", "candidate" and "baseline" (each with
        bytes, load seconds and peak memory), "measures": for each kind of work ("encoder", or
        "prompt" and "decode") the calls' median_ms and p95_ms of both, interval_ms (95 %, of the
        turns' median), tokens per second, and
        "ratio": how many times faster the candidate is, with its 95 % interval.

    Raises:
        UserError: a model cannot be opened or run, or the two do different tasks.
    """
    settings = settings or BenchSettings()
    with opened(candidate) as ours, opened(baseline) as theirs:
        first, second = (
            Contestant.of(ours, place_name(candidate)),
            Contestant.of(theirs, place_name(baseline)),
        )
        if _kinds(first) != _kinds(second):
            raise UserError(
                f"{first.name} does {first.task} and {second.name} {second.task}"
                f"{'' if first.task != second.task else ', one without a key-value cache'}: "
                f"there is nothing to compare."
            )
        contestants = [first, second]
        if settings.tune_baseline and second.is_float:
            contestants.append(second.without_slow_fusions())
        return _run(contestants, settings)


def measure(place: str | Path | Bundle, settings: BenchSettings | None = None) -> dict[str, Any]:
    """Measure one model alone: `compare`'s result without baseline and ratios."""
    settings = settings or BenchSettings()
    with opened(place) as bundle:
        return _run([Contestant.of(bundle, place_name(place))], settings)


@dataclass
class _Times:
    """Seconds of one contestant at one kind of work."""

    calls: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)  # the median of each turn


def _run(contestants: Sequence[Contestant], settings: BenchSettings) -> dict[str, Any]:
    for contestant in contestants:
        _check_length(contestant, settings)
    facts = machine_facts()
    cores = choose_cores(settings.threads)
    candidate, *variants = contestants
    kinds = _kinds(candidate)
    # Peak memory first: it leaves every file in the system's cache, so that loading is timed alike.
    memory = [peak_memory(contestant, settings) for contestant in contestants[:2]]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Process(contestant, settings, cores)) for contestant in contestants
        ]
        times = {
            kind: _rounds(processes, kind, settings, settings.time_limit / len(kinds))
            for kind in kinds
        }
        loads = [process.load_seconds for process in processes]
    result: dict[str, Any] = {
        "settings": settings.model_dump(),
        "cores": cores,
        "machine": facts,
        "candidate": _about(candidate, memory[0], loads[0]),
    }
    chosen = None
    if variants:
        # By the first kind of work: one session runs them all.
        medians = [median(found.calls) for found in times[kinds[0]][1:]]
        chosen = 1 + medians.index(min(medians))
        result["baseline"] = _about(contestants[chosen], memory[1], loads[chosen])
        result["baseline"]["variants_ms"] = {
            _fusions(variant): value * 1000
            for variant, value in zip(variants, medians, strict=True)
        }
    result["measures"] = {
        kind: _measured(found, kind, chosen, settings) for kind, found in times.items()
    }
    return result


def _rounds(
    processes: Sequence[Process], kind: str, settings: BenchSettings, time_limit: float
) -> list[_Times]:
    """Rounds of turns there and back until the ratio is known well enough or time is up."""
    calls = [_warm(process, kind, settings) for process in processes]
    times = [_Times() for _ in processes]
    there = list(range(len(processes)))
    started = time.monotonic()
    for index in there:  # a last turn to warm up, which says how long a round takes
        _turn(processes[index], kind, calls[index], settings)
    round_seconds = 2 * (time.monotonic() - started)
    at_most = max(settings.min_rounds, round(time_limit / round_seconds))
    started = time.monotonic()
    for done in track(range(1, at_most + 1), f"timing {kind}", at_most):
        for index in (*there, *reversed(there)):
            if settings.threads > 1 and len(processes) > 1:
                time.sleep(_REST_SECONDS)
            seconds = _turn(processes[index], kind, calls[index], settings)
            times[index].calls += seconds
            times[index].turns.append(median(seconds))
        if done < settings.min_rounds:
            continue
        if _settled(times, settings) or time.monotonic() - started > time_limit:
            break
    return times


def _warm(process: Process, kind: str, settings: BenchSettings) -> int:
    """Call until times are steady; returns how many calls make one turn."""
    started = time.monotonic()
    seconds: list[float] = []
    while len(seconds) < 3 or time.monotonic() - started < _WARM_SECONDS:
        seconds += _turn(process, kind, 1, settings)
    return min(_MAX_CALLS_A_TURN, max(1, round(settings.turn_seconds / median(seconds))))


def _turn(process: Process, kind: str, calls: int, settings: BenchSettings) -> list[float]:
    """Seconds of each call of one turn. The call after a change of turns meets cold caches, and
    is left out: the worker's decoding does so by itself, the rest here."""
    if kind == "decode":
        answer = process.ask("decode", context=settings.tokens, steps=settings.decode_steps)
        return answer["seconds"]
    work = {"tokens": settings.tokens, "calls": calls + 1}
    if kind == "encoder":
        work["batch"] = settings.batch
    return process.ask(kind, **work)["seconds"][1:]


def _settled(times: Sequence[_Times], settings: BenchSettings) -> bool:
    """Whether the ratio (alone: the median) is known to within the width asked for."""
    return _ratio(times, _faster(times), settings).width < settings.width


def _faster(times: Sequence[_Times]) -> int | None:
    """The baseline's faster variant so far; None for a model measured alone."""
    return min(range(1, len(times)), key=lambda i: median(times[i].calls), default=None)


def _ratio(times: Sequence[_Times], baseline: int | None, settings: BenchSettings) -> Ratio:
    """How many times faster the candidate is; alone, its times over their median."""
    ours = times[0].turns
    theirs = [median(ours)] * len(ours) if baseline is None else times[baseline].turns
    return paired_ratio(theirs, ours, settings.seed)


def _measured(
    times: Sequence[_Times], kind: str, baseline: int | None, settings: BenchSettings
) -> dict[str, Any]:
    found: dict[str, Any] = {"candidate": _speed(times[0], kind, settings)}
    if baseline is None:
        return found
    ratio = _ratio(times, baseline, settings)
    found["baseline"] = _speed(times[baseline], kind, settings)
    found["ratio"] = asdict(ratio)
    found["settled"] = ratio.width < settings.width
    return found


def _speed(times: _Times, kind: str, settings: BenchSettings) -> dict[str, Any]:
    typical = median(times.calls)
    known = paired_ratio(times.turns, [1.0] * len(times.turns), settings.seed)
    speed: dict[str, Any] = {
        "median_ms": typical * 1000,
        "interval_ms": [known.low * 1000, known.high * 1000],
        "p95_ms": percentile(times.calls, 95) * 1000,
        "calls": len(times.calls),
    }
    if kind == "encoder":
        return speed | {"texts_per_second": settings.batch / typical}
    tokens = settings.tokens if kind == "prompt" else 1
    return speed | {"tokens_per_second": tokens / typical}


def peak_memory(contestant: Contestant, settings: BenchSettings) -> int:
    """Peak resident bytes of a process that only loads and runs this model."""
    cores = choose_cores(settings.threads)
    with Process(contestant, settings, cores, _STEADY_MEMORY) as process:
        for kind in _kinds(contestant):
            _turn(process, kind, _MEMORY_CALLS, settings)
        return process.ask("memory")["peak_bytes"]


def _about(contestant: Contestant, peak_bytes: int, load_seconds: float) -> dict[str, Any]:
    return {
        "name": contestant.name,
        "task": contestant.task,
        "fusions": _fusions(contestant),
        "model_bytes": contestant.model_bytes,
        "peak_memory_bytes": peak_bytes,
        "load_seconds": load_seconds,
    }


def _fusions(contestant: Contestant) -> str:
    if not contestant.disabled_optimizers:
        return "default fusions"
    return f"without {' and '.join(contestant.disabled_optimizers)}"


def _kinds(contestant: Contestant) -> list[str]:
    if contestant.task != "text-generation":
        return ["encoder"]
    return ["prompt", "decode"] if contestant.has_cache else ["prompt"]


def _check_length(contestant: Contestant, settings: BenchSettings) -> None:
    needed = settings.tokens
    if "decode" in _kinds(contestant):
        needed += settings.decode_steps + 1
    if contestant.max_length is not None and needed > contestant.max_length:
        raise UserError(
            f"{contestant.name} takes {contestant.max_length:,} tokens at most and the benchmark "
            f"needs {needed:,}: lower --tokens."
        )
