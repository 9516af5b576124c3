"""The checks: each takes two models' figures and the limits, and gives what it found.

Figures that repeat exactly (bytes, operators, quality, and peak memory, which repeats to a
thousandth) decide by themselves. Speed is noisy: it fails only where the whole 95 % interval lies
beyond the limit, passes where the whole interval keeps it, and else is undecided.
"""

import math
from collections.abc import Mapping, Sequence

from edgeprune.base.errors import UserError
from edgeprune.base.words import MEDIANS_APART, medians_contradict
from edgeprune.measure.bench.record import Ratio
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.check.figures import (
    Figures,
    Identity,
    Operators,
    Quality,
    differing_conditions,
)
from edgeprune.measure.check.quality import headline
from edgeprune.measure.check.record import Check, Verdict, skipped
from edgeprune.measure.check.settings import Limits
from edgeprune.measure.works import WORKS, Work

# An interval as wide as the distance to the limit settles it every other time, since its middle
# moves too; one narrower by this (1.96 + 0.84 standard errors, not 1.96) does four times in five.
_SURE = (1.96 + 0.84) / 1.96
# More time than this many times what was spent is not worth advising.
_MOST_PATIENCE = 100
# Differences of quality below this come from adding in another order.
_NOTHING = 1e-9


def refuse_another_model(candidate: Identity, baseline: Identity) -> None:
    """Refuse a baseline that nothing can be said against.

    Raises:
        UserError: the two do different tasks, or were made from different models.
    """
    if candidate.task != baseline.task:
        raise UserError(
            f"The baseline {baseline.name} is of another model: it does {baseline.task}, and "
            f"{candidate.name} does {candidate.task}."
        )
    if candidate.source and baseline.source and candidate.source != baseline.source:
        raise UserError(
            f"The baseline {baseline.name} is of another model: it was made from one with the hash "
            f"{baseline.source[:12]}, and {candidate.name} from {candidate.source[:12]} "
            "(edgeprune.json, source): compare bundles of one model."
        )


def refuse_other_quality(candidate: Quality | None, baseline: Figures) -> None:
    """Refuse a saved baseline without the quality that was asked for.

    Raises:
        UserError: the baseline has none, or one of another task or of other data.
    """
    if candidate is None:
        return
    saved = baseline.quality
    if saved is None or saved.task != candidate.task:
        why = f"has no {candidate.task} saved"
    elif saved.digest != candidate.digest:
        why = f"was measured on other data ({saved.data}) or with another --limit or --original"
    else:
        return
    raise UserError(
        f"The baseline {baseline.name} {why}: save it again with the same --task, --data and "
        "--limit, or name its bundle."
    )


def same_source(candidate: Identity, baseline: Identity) -> Check:
    """Whether both were made from one model; `refuse_another_model` has refused where not."""
    if candidate.source and baseline.source:
        return Check(
            name="source model",
            verdict="pass",
            sentence=f"both were made from {candidate.source[:12]}",
        )
    silent = [side.name for side in (candidate, baseline) if not side.source]
    of = "neither model says" if len(silent) > 1 else f"{silent[0]} does not say"
    return skipped("source model", f"{of} what it was made from")


def size(candidate: Figures, baseline: Figures, limits: Limits) -> Check:
    """Bytes of model.onnx and its external data."""
    sizes = (candidate.model_bytes, baseline.model_bytes)
    return _grown("graph and data", "bytes", sizes, limits, "max_size")


def memory(candidate: Figures, baseline: Figures, limits: Limits) -> Check:
    """Peak resident memory of a process that loads and runs the model."""
    if differing := differing_conditions(candidate, baseline):
        return skipped("peak memory", _elsewhere(candidate, baseline, differing))
    peaks = (candidate.peak_memory_bytes, baseline.peak_memory_bytes)
    return _grown("peak memory", "bytes", peaks, limits, "max_memory")


def operators(candidate: Figures, baseline: Figures, limits: Limits) -> list[Check]:
    """Operators of the graph that the runtime runs, and those that it fused.

    A fusion is lost where fused operators became fewer while some other kind became more: that a
    layer left makes both fewer, and is none.
    """
    names = ("operators", "fused operators")
    if candidate.operators is None or baseline.operators is None:
        return [skipped(name, "the saved result does not count them") for name in names]
    if differing := differing_conditions(candidate, baseline, ("onnxruntime", "architecture")):
        return [skipped(name, _elsewhere(candidate, baseline, differing)) for name in names]
    result, saved_result = candidate.operators.run, baseline.operators.run
    totals = (sum(result.values()), sum(saved_result.values()))
    total = _grown(names[0], "operators", totals, limits, "max_operators")
    fused = _introduced(candidate.operators) | _introduced(baseline.operators)
    counts = [sum(side.get(kind, 0) for kind in fused) for side in (result, saved_result)]
    grown = {
        kind: result[kind] - saved_result.get(kind, 0)
        for kind in sorted(result.keys() - fused)
        if result[kind] > saved_result.get(kind, 0)
    }
    lost = {
        kind: saved_result[kind] - result.get(kind, 0)
        for kind in sorted(fused)
        if saved_result.get(kind, 0) > result.get(kind, 0)
    }
    failed = counts[0] < counts[1] and bool(grown)
    sentence = (
        f"the runtime fuses less: {_listed(lost, '-')}, so that it runs {_listed(grown, '+')}"
        if failed
        else f"the runtime fuses {counts[0]} where it fused {counts[1]}"
    )
    return [
        total,
        Check(
            name=names[1],
            verdict="fail" if failed else "pass",
            sentence=sentence,
            unit="operators",
            baseline=counts[1],
            candidate=counts[0],
            change=counts[0] - counts[1],
            relative=False,
        ),
    ]


def paired_speed(
    candidate: Figures,
    baseline: Figures,
    ratios: Mapping[Work, Ratio],
    limits: Limits,
    settings: BenchSettings,
) -> list[Check]:
    """Time of a call, from the paired ratios of an interleaved run.

    Args:
        ratios: by kind of work, how many times faster the candidate is.
        settings: those of the run.
    """
    checks = []
    for kind, ratio in ratios.items():
        interval = (1 / ratio.high, 1 / ratio.value, 1 / ratio.low)
        quotient = candidate.speed[kind].median_ms / baseline.speed[kind].median_ms
        check = _timed(kind, candidate, baseline, interval, limits).model_copy(
            update={"pairs": ratio.pairs, "note": _medians_note(quotient, interval)}
        )
        checks.append(_with_advice(check, settings) if check.verdict == "undecided" else check)
    return checks


def saved_speed(candidate: Figures, baseline: Figures, limits: Limits) -> list[Check]:
    """Time of a call against a saved one: only where machine and work are the same.

    The two runs' errors are independent, so the widths of their intervals add as squares, of
    logarithms. What changed on the machine between the runs is in no interval.
    """
    checks = []
    differing = differing_conditions(candidate, baseline)
    for kind, result in candidate.speed.items():
        saved_result = baseline.speed.get(kind)
        if (
            differing
            or saved_result is None
            or saved_result.interval_ms is None
            or result.interval_ms is None
        ):
            why = _elsewhere(candidate, baseline, differing) if differing else "it was not saved"
            checks.append(skipped(WORKS[kind].latency, why))
            continue
        ratio = result.median_ms / saved_result.median_ms
        down = math.hypot(
            math.log(result.median_ms / result.interval_ms[0]),
            math.log(saved_result.interval_ms[1] / saved_result.median_ms),
        )
        up = math.hypot(
            math.log(result.interval_ms[1] / result.median_ms),
            math.log(saved_result.median_ms / saved_result.interval_ms[0]),
        )
        interval = (ratio * math.exp(-down), ratio, ratio * math.exp(up))
        check = _timed(kind, candidate, baseline, interval, limits)
        if check.verdict == "undecided":
            check = _extended(check, "name the baseline's bundle, to measure both at once")
        checks.append(check)
    return checks


def quality(candidate: Figures, baseline: Figures, limits: Limits) -> Check:
    """The measure that was asked for; `refuse_other_quality` has refused a baseline without it."""
    if candidate.quality is None or baseline.quality is None:
        return skipped("quality", "give --task and --data")
    return _scored(f"{candidate.quality.task} quality", candidate.quality, baseline.quality, limits)


def as_built(candidate: Figures, baseline: Figures, limits: Limits) -> list[Check]:
    """Parity with the original on held-out text, as each build measured and its manifest tells."""
    name = "parity as built"
    if not candidate.as_built or not baseline.as_built:
        silent = [side.name for side in (candidate, baseline) if not side.as_built]
        of = "either model" if len(silent) > 1 else silent[0]
        return [skipped(name, f"no build of edgeprune measured {of}")]
    before = {(each.task, each.digest): each for each in baseline.as_built}
    pairs = [
        (each, before[each.task, each.digest])
        for each in candidate.as_built
        if (each.task, each.digest) in before
    ]
    if not pairs:
        return [skipped(name, "the two were built with different text")]
    return [
        _scored(f"{result.task} as built", result, saved_result, limits)
        for result, saved_result in pairs
    ]


def _grown(
    name: str, unit: str, counts: tuple[float, float], limits: Limits, setting: str
) -> Check:
    """A figure of which less is better, and that repeats: the candidate's and the baseline's."""
    candidate, baseline = counts
    limit = getattr(limits, setting)
    change = 100 * (candidate / baseline - 1)
    return Check(
        name=name,
        verdict="fail" if change > limit else "pass",
        sentence=_allowed(f"{change:+.1f} %", limit, setting),
        unit=unit,
        baseline=baseline,
        candidate=candidate,
        change=change,
        limit=limit,
    )


def _timed(
    kind: Work,
    candidate: Figures,
    baseline: Figures,
    interval: tuple[float, float, float],
    limits: Limits,
) -> Check:
    low, change, high = (100 * (ratio - 1) for ratio in interval)
    limit = limits.max_slowdown
    verdict: Verdict = "fail" if low > limit else "pass" if high <= limit else "undecided"
    sentence = _allowed(f"{change:+.1f} % ({low:+.1f} to {high:+.1f})", limit, "max_slowdown")
    return Check(
        name=WORKS[kind].latency,
        verdict=verdict,
        sentence=sentence,
        unit="ms",
        baseline=baseline.speed[kind].median_ms,
        candidate=candidate.speed[kind].median_ms,
        change=change,
        interval=(low, high),
        limit=limit,
    )


def _medians_note(quotient: float, interval: tuple[float, float, float]) -> str:
    """A word on medians that seem to contradict the paired ratio; nothing on others."""
    if not medians_contradict(quotient, *interval):
        return ""
    return f"the medians alone differ by {100 * (quotient - 1):+.1f} %: {MEDIANS_APART}"


def _with_advice(check: Check, settings: BenchSettings) -> Check:
    """Add what more launches would settle: an interval narrows with their square root."""
    assert check.change is not None
    assert check.interval is not None
    assert check.limit is not None
    low, high = check.interval
    half = high - check.change if check.change <= check.limit else check.change - low
    distance = abs(check.limit - check.change)
    if _SURE * half > distance * math.sqrt(_MOST_PATIENCE):
        return _extended(check, "too close to the limit for more time to settle it")
    longer = (_SURE * half / distance) ** 2
    launches, seconds = (
        math.ceil(given * longer) for given in (settings.launches, settings.time_limit)
    )
    return _extended(
        check,
        f"{launches:,} launches in place of {settings.launches:,} would likely settle it: "
        f"--launches {launches} --time-limit {seconds}",
    )


def _scored(name: str, candidate: Quality, baseline: Quality, limits: Limits) -> Check:
    key, scale = headline(candidate)
    relative = scale.points is None
    if key not in baseline.values or (relative and baseline.values[key] <= 0):
        raise UserError(f"The baseline's {baseline.task} gives no {key}: save it again.")
    result, saved_result = candidate.values[key], baseline.values[key]
    change = (
        100 * (result / saved_result - 1)
        if scale.points is None
        else scale.points * (result - saved_result)
    )
    lost = -change if scale.higher_is_better else change
    limit = -limits.max_drop if scale.higher_is_better else limits.max_drop
    unit = "%" if relative else "points"
    allowed = _allowed(f"{change:+.2f} {unit}", limit, "max_drop")
    return Check(
        name=name,
        verdict="fail" if lost > limits.max_drop + _NOTHING else "pass",
        sentence=f"{key.replace('_', ' ')} {allowed}",
        baseline=saved_result,
        candidate=result,
        change=change,
        limit=limit,
        relative=relative,
        note=candidate.sample,
    )


def _introduced(found: Operators) -> set[str]:
    """Kinds of operators that the runtime's optimizer put in the place of the file's."""
    return {kind for kind, count in found.run.items() if count > found.written.get(kind, 0)}


def _allowed(change: str, limit: float, setting: str) -> str:
    """A change, its limit, and the option that sets the limit."""
    return f"{change} where {limit:+g} is allowed (--{setting.replace('_', '-')})"


def _listed(counts: Mapping[str, int], sign: str) -> str:
    return ", ".join(f"{sign}{count} {kind}" for kind, count in counts.items())


def _elsewhere(candidate: Figures, baseline: Figures, differing: Sequence[str]) -> str:
    """Why figures of two runs cannot be compared."""
    found = []
    for name in differing:
        result, saved_result = (
            getattr(candidate.conditions, name),
            getattr(baseline.conditions, name),
        )
        if name == "flags":  # a long list of instruction sets
            found.append("other instruction sets")
        else:
            found.append(f"{name.replace('_', ' ')} {saved_result} then, {result} now")
    return f"the saved result is of another machine or other work ({'; '.join(found)})"


def _extended(check: Check, more: str) -> Check:
    return check.model_copy(update={"sentence": f"{check.sentence}; {more}"})
