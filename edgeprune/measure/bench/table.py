"""A benchmark's result as a table for people."""

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.words import MEDIANS_APART, duration, listed, many
from edgeprune.measure.bench.record import (
    SIDES,
    Counts,
    Missing,
    Profile,
    Ratio,
    Side,
    SideName,
    Speed,
    Spent,
    Sustained,
    Sweep,
    Timed,
    known_profiles,
)
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import SLOW_FUSIONS
from edgeprune.measure.works import WORKS, Work

_OPERATORS_SHOWN = 10
_SWEPT = ("batch", "tokens", "threads")
_NOTHING = Spent(share=0.0, ms=0.0, count=0.0)


def bench_table(result: Speed | Sweep) -> RenderableType:
    """The result of `compare`, `measure` or `sweep`, at 80 columns."""
    return _sweep(result.sweep) if isinstance(result, Sweep) else _point(result)


def _point(result: Speed) -> RenderableType:
    settings, candidate, baseline = result.settings, result.candidate, result.baseline
    models = list(result.sides.values())
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    if baseline:
        table.add_column(SIDES["baseline"], justify="right")
    table.add_column(SIDES["candidate"] if baseline else "measured", justify="right")
    if baseline:
        table.add_column("change", justify="right")
    for work, found in result.measures.items():
        _add_speed(table, work, found)
    rows = (
        ("model on disk", "model_bytes", 1e6, "MB"),
        ("model, zlib level 6", "compressed_bytes", 1e6, "MB"),
        ("peak memory", "peak_memory_bytes", 1e6, "MB"),
        ("loading", "load_seconds", 1e-3, "ms"),
    )
    for label, key, unit, name in rows:
        values = [getattr(model, key) for model in models]
        if not all(values):
            continue  # not asked for, or not known of a foreign program
        cells = [f"{value / unit:,.1f} {name}" for value in values]
        gain = [_gain(values[0] / values[1], "less", "more")] if baseline else []
        table.add_row(label, *cells, *gain)
    counted = result.counters
    if counted and not isinstance(counted, Missing):
        _add_counts(table, counted)
    notes = _names(candidate, baseline)
    if baseline:
        notes += _when([result])
        notes += [
            f"{WORKS[work].call}: {_unsettled(settings)}"
            for work, found in result.measures.items()
            if not found.settled
        ]
        notes += [
            f"{WORKS[work].call}: the medians' own quotient is {apart:.2f}x; {MEDIANS_APART}."
            for work, found in result.measures.items()
            if (apart := found.medians_apart)
        ]
    if result.noise and result.noise.noisy:
        notes.append(
            f"A noisy machine: {', and '.join(result.noise.why)}. {_noisy(bool(baseline))}"
        )
    if result.sustained:
        notes.append(_sustained(result.sustained))
    if isinstance(counted, Missing):
        notes.append(f"No instructions and cycles: {counted.missing}.")
    profiles = result.profile or {}
    notes += [
        f"No time by operator of the {SIDES[side]}: {found.missing}."
        for side, found in next(iter(profiles.values()), {}).items()
        if isinstance(found, Missing)
    ]
    notes += [note for model in models for note in model.notes]
    notes.append(_machine(result))
    return Group(
        Text(_title(result), style="bold"),
        table,
        *(_profile(work, known) for work, known in known_profiles(profiles).items()),
        *(Text(note, style="dim") for note in notes),
    )


def _sweep(results: Sequence[Speed]) -> RenderableType:
    """A row for each point and kind of work; what all points share stands in the title."""
    first = results[0]
    works, baseline = list(first.measures), first.baseline
    swept = [
        key for key in _SWEPT if len({getattr(result.settings, key) for result in results}) > 1
    ]
    table = Table(box=SIMPLE_HEAD, padding=0)
    for key in swept:
        table.add_column(key, justify="right")
    if len(works) > 1:
        table.add_column("work")
    unit = WORKS[works[0]].unit
    sides = list(SIDES.values()) if baseline else ["ms"]
    for title in (*sides, f"{unit}/s"):
        table.add_column(title, justify="right")
    if baseline:
        table.add_column("as fast", justify="right")
    peaks = all(result.candidate.peak_memory_bytes for result in results)
    if peaks:  # a foreign program's is not known
        table.add_column("MB", justify="right")
    for result in results:
        for work in works:
            found = result.measures[work]
            cells = [str(getattr(result.settings, key)) for key in swept]
            cells += [work] if len(works) > 1 else []
            cells += [f"{times.median_ms:.2f}" for times in found.sides.values()]
            rate = getattr(found.candidate, f"{unit}_per_second")
            cells.append(f"{rate:,.1f}" if rate < 1000 else f"{rate:,.0f}")
            cells += [_ratio(found.ratio)] if found.ratio else []
            cells += [f"{(result.candidate.peak_memory_bytes or 0) / 1e6:,.0f}"] if peaks else []
            table.add_row(*cells)
    same = [f"{key} {getattr(first.settings, key)}" for key in _SWEPT if key not in swept]
    notes = _names(first.candidate, baseline)
    if peaks:
        notes.append(f"MB: peak memory{' of the result' if baseline else ''}")
    if baseline:
        measured = [found for result in results for found in result.measures.values()]
        notes += _when(results)
        if late := sum(not found.settled for found in measured):
            notes.append(f"In {late} of {len(measured)} rows {_unsettled(first.settings)}")
        if apart := sum(found.medians_apart is not None for found in measured):
            notes.append(
                f"In {apart} of {len(measured)} rows the medians' own quotient is another than the "
                f"ratio; {MEDIANS_APART}."
            )
    if noisy := sum(bool(result.noise and result.noise.noisy) for result in results):
        notes.append(
            f"A noisy machine at {noisy} of {len(results)} points. {_noisy(bool(baseline))}"
        )
    notes.append(_machine(first))
    return Group(
        Text(", ".join([*same, "median milliseconds"]), style="bold"),
        table,
        *(Text(note, style="dim") for note in notes),
    )


def _unsettled(settings: BenchSettings) -> str:
    return (
        f"the 95 % interval is wider than {settings.width:.0%}: more --launches or a longer "
        "--time-limit would narrow it."
    )


def _when(results: Sequence[Speed]) -> list[str]:
    """The time that the intervals hold for; nothing where a result does not tell it."""
    settings, seconds = results[0].settings, [result.seconds for result in results]
    known = [each for each in seconds if each is not None]
    if len(known) < len(results):
        return []
    launches = many(settings.launches, "launch", "launches")
    if settings.spread:
        return [f"Intervals hold for {launches} over {duration(max(known))}."]
    return [
        f"Intervals hold for {launches} within {duration(max(known))}: another hour may give "
        "another ratio, and --spread 1h spaces the launches."
    ]


def _sustained(found: Sustained) -> str:
    """The last minute beside the first."""
    first, last = found.spans[0], found.spans[-1]
    told = f"{last.median_ms:.2f} ms after {duration(found.seconds)} of work, {first.median_ms:.2f}"
    parts = [f"{WORKS[found.work].call}: {told} ms at first"]
    if first.megahertz and last.megahertz:
        parts.append(f"{last.megahertz:,.0f} MHz, {first.megahertz:,.0f} at first")
    if first.celsius is not None and last.celsius is not None:
        parts.append(f"{last.celsius:.0f} °C, {first.celsius:.0f} at first")
    why = dict.fromkeys(each for span in found.spans for each in span.throttled or ())
    return f"{'; '.join([*parts, *([f'held back: {listed(list(why))}'] if why else [])])}."


def _noisy(compared: bool) -> str:
    paired = "; ratios are paired and state their interval" if compared else ""
    return f"The plain times may not repeat{paired}."


def _machine(result: Speed) -> str:
    machine = result.machine
    load = machine.load_average
    return (
        f"{f'{result.remote}: ' if result.remote else ''}"
        f"{machine.processor}, {machine.logical_cores} cores"
        f"{f', load {load[0]:.1f}' if load else ''}, ONNX Runtime {machine.onnxruntime}"
    )


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def _title(result: Speed) -> str:
    settings = result.settings
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    if any(WORKS[work].alone for work in result.measures):
        return f"batch {settings.batch}, {settings.tokens} tokens, {threads}"
    steps = f", then {settings.decode_steps} decoded" if "decode" in result.measures else ""
    batch = f"batch {settings.batch}, " if settings.batch > 1 else ""
    return f"{batch}prompt of {settings.tokens} tokens{steps}, {threads}"


def _add_speed(table: Table, work: Work, found: Timed) -> None:
    sides = list(found.sides.values())
    gain: list[str] = []
    if ratio := found.ratio:
        gain = [_gained(ratio)]
    title = WORKS[work].call
    table.add_row(f"{title}, median", *(f"{side.median_ms:.2f} ms" for side in sides), *gain)
    blank = [""] * len(gain)
    if found.processor_ratio:
        table.add_row("  processor's time", *("" for _ in sides), _gained(found.processor_ratio))
    for percentile in ("p95", "p99"):
        late = (getattr(side, f"{percentile}_ms") for side in sides)
        table.add_row(f"{title}, {percentile}", *(f"{ms:.2f} ms" for ms in late), *blank)
    unit, named = WORKS[work].unit, "" if WORKS[work].alone else f"{work}, "
    rates = (f"{getattr(side, f'{unit}_per_second'):,.1f}" for side in sides)
    table.add_row(f"{named}{unit} a second", *rates, *blank)


def _gained(ratio: Ratio) -> str:
    low, high = sorted(_upright(ratio.value, end) for end in (ratio.low, ratio.high))
    return f"{_gain(ratio.value, 'faster', 'slower')} ({low:.2f}-{high:.2f})"


def _add_counts(table: Table, counted: Counts) -> None:
    for work, sides in counted.items():
        models = [sides[side] for side in SIDES if side in sides]
        for name in models[0]:
            cells = [f"{model[name] / 1e6:,.1f} M" for model in models]
            pair = len(models) > 1
            gain = [_gain(models[0][name] / models[1][name], "fewer", "more")] if pair else []
            table.add_row(f"{WORKS[work].call}, {name}", *cells, *gain)


def _gain(ratio: float, better: str, worse: str) -> str:
    """Original over result in words that do not call a loss a gain: "1.25x slower"."""
    return f"{_upright(ratio, ratio):.2f}x {worse if ratio < 1 else better}"


def _upright(ratio: float, end: float) -> float:
    """One end of a ratio's interval, turned over where the ratio is below 1."""
    return 1 / end if ratio < 1 else end


def _profile(work: Work, sides: Mapping[SideName, Profile]) -> Table:
    """Shares of the time by operator, the largest first."""
    table = Table(box=SIMPLE_HEAD, title=f"{WORKS[work].call}, by operator", title_justify="left")
    table.add_column("")
    for side in sides:
        table.add_column(SIDES[side] if len(sides) > 1 else "share", justify="right")
        table.add_column("ms", justify="right")
    profiles = list(sides.values())
    names = {name for found in profiles for name in found.operators}
    rows = {name: [found.operators.get(name, _NOTHING) for found in profiles] for name in names}
    most_first = sorted(rows, key=lambda name: -max(spent.share for spent in rows[name]))
    for name in most_first[:_OPERATORS_SHOWN]:
        table.add_row(name, *_shares(rows[name]))
    if rest := [rows[name] for name in most_first[_OPERATORS_SHOWN:]]:
        sums = [
            Spent(
                share=sum(spent.share for spent in side),
                ms=sum(spent.ms for spent in side),
                count=sum(spent.count for spent in side),
            )
            for side in zip(*rest, strict=True)
        ]
        table.add_row(f"{len(rest)} others", *_shares(sums))
    between = [
        Spent(share=found.outside_share, ms=found.outside_share * found.run_ms, count=0.0)
        for found in profiles
    ]
    table.add_row("between operators", *_shares(between))
    return table


def _shares(spent: Iterable[Spent]) -> list[str]:
    return [text for each in spent for text in (f"{each.share:.1%}", f"{each.ms:.3f}")]


def _names(candidate: Side, baseline: Side | None) -> list[str]:
    """The names of what was run, and in what where that is not the runtime's default."""
    if baseline is None:
        return [f"{candidate.name}{_way(candidate)}"]
    return [
        f"result:   {candidate.name}{_way(candidate)}",
        f"original: {baseline.name}{_way(baseline)}",
    ]


def _way(model: Side) -> str:
    if model.fusions is None:
        return f", in {model.runtime}"
    if model.fusions == "default fusions":
        return ""
    return f", with {SLOW_FUSIONS[0]} off, which is faster"
