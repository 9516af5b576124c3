"""Two models beside each other, or one alone.

Each contestant has a process of its own, since sessions in one process disturb each other, and all
share the same cores; rounds.py times them in turns.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.contestants import DECODER, ENCODER, Contestant, entered
from edgeprune.measure.bench.counters import counters
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.noise import CoreWatch, judge, turn_spread
from edgeprune.measure.bench.process import Process, choose_cores
from edgeprune.measure.bench.profile import profile_of
from edgeprune.measure.bench.rounds import Times, faster, ratio_of, time_rounds, turn
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.size import bytes_of, compressed_bytes
from edgeprune.measure.bench.stats import median, paired_ratio, percentile
from edgeprune.measure.works import WORKS
from edgeprune.runtime.bundle import Bundle

_MEMORY_CALLS = 3
# glibc learns while it runs from what size on a freed block goes back to the system. What it learns
# hangs on addresses, which are random: 9 of 60 processes with MiniLM in INT8 peaked 7 % below the
# others. With the size fixed, 64 of 64 agreed to two thousandths. Memory alone: calls get slower.
_STEADY_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
# What contestants.py tells apart.
Place = str | Path | Bundle


def compare(
    candidate: Place,
    baseline: Place,
    settings: BenchSettings | None = None,
) -> dict[str, Any]:
    """Measure a candidate beside a baseline, interleaved. contestants.py says what both may be.

    A float baseline also runs with the runtime's slow fusions off, unless the settings say no; the
    faster of the two, by median, is the baseline.

    Returns:
        A dict of plain JSON values: "settings", "machine", "candidate" and "baseline" (each with
        bytes on disk and, where the settings ask for it, compressed; load seconds; peak memory),
        "noise" (how quiet the machine was, by noise.py) and "measures": for each kind of work
        ("encoder", or "prompt" and "decode") the calls' median_ms, p95_ms and p99_ms of both,
        interval_ms (95 %, of the turns' median), tokens per second, a prompt's first_token_ms, and
        "ratio": how many times faster the candidate is, with its 95 % interval. Where the settings
        ask for it, "profile": by kind of work and side, each type of operator's share of the time,
        and "counters": likewise the instructions and cycles of a call, or "missing", why there are
        none.

    Raises:
        UserError: a model cannot be opened or run, or the two do different tasks.
    """
    return _results(candidate, baseline, [settings or BenchSettings()])[0]


def measure(place: Place, settings: BenchSettings | None = None) -> dict[str, Any]:
    """Measure one model alone: `compare`'s result without baseline and ratios."""
    return _results(place, None, [settings or BenchSettings()])[0]


def sweep(
    candidate: Place,
    baseline: Place | None,
    points: Sequence[BenchSettings],
) -> dict[str, Any]:
    """Measure at several settings; {"sweep": [results as of `compare` or `measure`]}."""
    return {"sweep": _results(candidate, baseline, points)}


def curve(
    candidate: Place,
    baseline: Place,
    points: Sequence[BenchSettings],
) -> list[dict[str, Any]]:
    """Time two models at several settings of the same threads, loading each once.

    Faster than `sweep` by what loading and peak memory take.

    Returns:
        For each point "settings" and "measures", as `compare` has them.
    """
    found = []
    with ExitStack() as stack:
        contestants = _enter(stack, (candidate, baseline), points)
        cores = choose_cores(points[0].threads)
        processes = [
            stack.enter_context(Process(contestant, points[0], cores)) for contestant in contestants
        ]
        for settings in points:
            kinds = contestants[0].kinds
            times = {
                kind: time_rounds(processes, kind, settings, settings.time_limit / len(kinds))
                for kind in kinds
            }
            chosen = faster(times[kinds[0]])
            measures = {
                kind: _measured(each, kind, chosen, settings) for kind, each in times.items()
            }
            found.append({"settings": settings.model_dump(), "measures": measures})
    return found


def _results(
    candidate: Place,
    baseline: Place | None,
    points: Sequence[BenchSettings],
) -> list[dict[str, Any]]:
    places = [place for place in (candidate, baseline) if place is not None]
    with ExitStack() as stack:
        contestants = _enter(stack, places, points)
        return [_run(contestants, settings) for settings in points]


def _enter(
    stack: ExitStack, places: Sequence[Place], points: Sequence[BenchSettings]
) -> list[Contestant]:
    """The contestants: the candidate, the baseline if there is one, and its variants."""
    contestants = [stack.enter_context(entered(place)) for place in places]
    if len(contestants) > 1:
        _check_alike(*contestants)
        if points[0].tune_baseline and contestants[1].fusable:
            contestants.append(contestants[1].without_slow_fusions())
    for settings in points:  # all, before the first is timed
        for contestant in contestants:
            _check_length(contestant, settings)
    return contestants


def _run(contestants: Sequence[Contestant], settings: BenchSettings) -> dict[str, Any]:
    facts = machine_facts()
    cores = choose_cores(settings.threads)
    candidate, *variants = contestants
    kinds = candidate.kinds
    # Peak memory first: it leaves every file in the system's cache, so that loading is timed alike.
    memory = [peak_memory(contestant, settings) for contestant in contestants[:2]]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Process(contestant, settings, cores)) for contestant in contestants
        ]
        watch = CoreWatch(cores, [process.pid for process in processes])
        times = {
            kind: time_rounds(processes, kind, settings, settings.time_limit / len(kinds))
            for kind in kinds
        }
        others = watch.others_share()
        loads = [process.load_seconds for process in processes]
        runtimes = [process.hello["runtime"] for process in processes]
    result: dict[str, Any] = {
        "settings": settings.model_dump(),
        "cores": cores,
        "machine": facts,
        "noise": judge(turn_spread(found for each in times.values() for found in each), others),
        "candidate": _about(candidate, runtimes[0], memory[0], loads[0], settings),
    }
    chosen = None
    if variants:
        # By the first kind of work: one session runs them all.
        medians = [median(found.calls) for found in times[kinds[0]][1:]]
        chosen = 1 + medians.index(min(medians))
        result["baseline"] = _about(
            contestants[chosen], runtimes[chosen], memory[1], loads[chosen], settings
        )
        result["baseline"]["variants_ms"] = {
            _fusions(variant) or runtimes[chosen]: value * 1000
            for variant, value in zip(variants, medians, strict=True)
        }
    result["measures"] = {
        kind: _measured(found, kind, chosen, settings) for kind, found in times.items()
    }
    sides = {"candidate": candidate}
    if chosen is not None:
        sides["baseline"] = contestants[chosen]
    if settings.profile:
        result["profile"] = {
            kind: {side: profile_of(model, kind, settings, cores) for side, model in sides.items()}
            for kind in kinds
        }
    if settings.counters:
        result["counters"] = counters(sides, kinds, settings, cores)
    return result


def _measured(
    times: Sequence[Times], kind: str, baseline: int | None, settings: BenchSettings
) -> dict[str, Any]:
    found: dict[str, Any] = {"candidate": _speed(times[0], kind, settings)}
    if baseline is None:
        return found
    ratio = ratio_of(times, baseline, settings)
    found["baseline"] = _speed(times[baseline], kind, settings)
    found["ratio"] = asdict(ratio)
    found["settled"] = ratio.width < settings.width
    return found


def _speed(times: Times, kind: str, settings: BenchSettings) -> dict[str, Any]:
    typical = median(times.calls)
    known = paired_ratio(times.turns, [1.0] * len(times.turns), settings.seed)
    speed: dict[str, Any] = {
        "median_ms": typical * 1000,
        "interval_ms": [known.low * 1000, known.high * 1000],
        "p95_ms": percentile(times.calls, 95) * 1000,
        "p99_ms": percentile(times.calls, 99) * 1000,
        "calls": len(times.calls),
    }
    tokens = settings.batch * (1 if kind == "decode" else settings.tokens)
    speed["tokens_per_second"] = tokens / typical
    if WORKS[kind].unit == "texts":
        speed["texts_per_second"] = settings.batch / typical
    if kind == "prompt":  # a call ends when its first token is chosen
        speed["first_token_ms"] = speed["median_ms"]
    return speed


def peak_memory(contestant: Contestant, settings: BenchSettings) -> int:
    """Peak resident bytes of a process that only loads and runs this model."""
    cores = choose_cores(settings.threads)
    with Process(contestant, settings, cores, environment=_STEADY_MEMORY) as process:
        for kind in contestant.kinds:
            turn(process, kind, _MEMORY_CALLS, settings)
        return process.ask("memory")["peak_bytes"]


def _about(
    contestant: Contestant,
    runtime: str,
    peak_bytes: int,
    load_seconds: float,
    settings: BenchSettings,
) -> dict[str, Any]:
    about = {
        "name": contestant.name,
        "task": contestant.task,
        "runtime": runtime,
        "notes": list(contestant.notes),
        "fusions": _fusions(contestant),
        "model_bytes": bytes_of(contestant.files),
        "peak_memory_bytes": peak_bytes,
        "load_seconds": load_seconds,
    }
    if settings.compressed:
        about["compressed_bytes"] = compressed_bytes(contestant.files)
    return about


def _fusions(contestant: Contestant) -> str | None:
    """Which of ONNX Runtime's fusions are on; None in another runtime."""
    if "disabled_optimizers" not in contestant.load:
        return None
    if not contestant.disabled_optimizers:
        return "default fusions"
    return f"without {' and '.join(contestant.disabled_optimizers)}"


def _check_alike(first: Contestant, second: Contestant) -> None:
    if first.kinds != second.kinds:
        described = (
            f"{model.name} is {'an encoder' if model.kinds == ENCODER else 'a decoder'}"
            f"{' without a key-value cache' if model.kinds == DECODER else ''}"
            for model in (first, second)
        )
        raise UserError(f"{' and '.join(described)}: there is nothing to compare.")


def _check_length(contestant: Contestant, settings: BenchSettings) -> None:
    needed = settings.tokens
    if "decode" in contestant.kinds:
        needed += settings.decode_steps + 1
    if contestant.max_length is not None and needed > contestant.max_length:
        raise UserError(
            f"{contestant.name} takes {contestant.max_length:,} tokens at most and the benchmark "
            f"needs {needed:,}: lower --tokens."
        )
