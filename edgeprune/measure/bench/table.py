"""A benchmark's result as a table for people."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.words import MEDIANS_APART, medians_apart
from edgeprune.measure.bench.contestants import SLOW_FUSIONS
from edgeprune.measure.works import WORKS

_OPERATORS_SHOWN = 10
_SWEPT = ("batch", "tokens", "threads")


def bench_table(result: dict[str, Any]) -> RenderableType:
    """The result of `compare`, `measure` or `sweep`, at 80 columns."""
    return _sweep(result["sweep"]) if "sweep" in result else _point(result)


def _point(result: dict[str, Any]) -> RenderableType:
    settings = result["settings"]
    ours, theirs = result["candidate"], result.get("baseline")
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    if theirs:
        table.add_column("baseline", justify="right")
    table.add_column("candidate" if theirs else "measured", justify="right")
    if theirs:
        table.add_column("gain", justify="right")
    for kind, found in result["measures"].items():
        _add_speed(table, kind, found)
    rows = (
        ("model on disk", "model_bytes", 1e6, "MB"),
        ("model, zlib level 6", "compressed_bytes", 1e6, "MB"),
        ("peak memory", "peak_memory_bytes", 1e6, "MB"),
        ("loading", "load_seconds", 1e-3, "ms"),
    )
    for label, key, unit, name in rows:
        if not all(model.get(key) for model in (theirs, ours) if model is not None):
            continue  # not asked for, or not known of a foreign program
        cells = [f"{model[key] / unit:,.1f} {name}" for model in (theirs, ours) if model]
        gain = [_gain(theirs[key] / ours[key], "less", "more")] if theirs else []
        table.add_row(label, *cells, *gain)
    counted = result.get("counters", {})
    if "missing" not in counted:
        _add_counts(table, counted)
    notes = _names(ours, theirs)
    if theirs:
        notes += [
            f"{WORKS[kind].call}: {_unsettled(settings)}"
            for kind, found in result["measures"].items()
            if not found["settled"]
        ]
        notes += [
            f"{WORKS[kind].call}: the medians' own quotient is {apart:.2f}x; {MEDIANS_APART}."
            for kind, found in result["measures"].items()
            if (apart := medians_apart(found))
        ]
    if result["noise"]["noisy"]:
        notes.append(
            f"A noisy machine: {', and '.join(result['noise']['why'])}. {_noisy(bool(theirs))}"
        )
    if "missing" in counted:
        notes.append(f"No instructions and cycles: {counted['missing']}.")
    profiles = result.get("profile", {})
    notes += [
        f"No time by operator of the {side}: {found['missing']}."
        for side, found in next(iter(profiles.values()), {}).items()
        if "missing" in found
    ]
    notes += [note for model in (theirs, ours) if model for note in model["notes"]]
    notes.append(_machine(result))
    return Group(
        Text(_title(result), style="bold"),
        table,
        *(
            _profile(kind, told)
            for kind, sides in profiles.items()
            if (told := {side: each for side, each in sides.items() if "missing" not in each})
        ),
        *(Text(note, style="dim") for note in notes),
    )


def _sweep(results: list[dict[str, Any]]) -> RenderableType:
    """A row for each point and kind of work; what all points share stands in the title."""
    first = results[0]
    kinds, theirs = list(first["measures"]), first.get("baseline")
    swept = [key for key in _SWEPT if len({result["settings"][key] for result in results}) > 1]
    table = Table(box=SIMPLE_HEAD, padding=0)
    for key in swept:
        table.add_column(key, justify="right")
    if len(kinds) > 1:
        table.add_column("work")
    unit = WORKS[kinds[0]].unit
    for title in (*(["baseline"] if theirs else []), "candidate" if theirs else "ms", f"{unit}/s"):
        table.add_column(title, justify="right")
    if theirs:
        table.add_column("as fast", justify="right")
    peaks = all(result["candidate"].get("peak_memory_bytes") for result in results)
    if peaks:  # a foreign program's is not known
        table.add_column("MB", justify="right")
    for result in results:
        for kind in kinds:
            found = result["measures"][kind]
            cells = [str(result["settings"][key]) for key in swept]
            cells += [kind] if len(kinds) > 1 else []
            models = [found[side] for side in ("baseline", "candidate") if side in found]
            cells += [f"{model['median_ms']:.2f}" for model in models]
            rate = found["candidate"][f"{unit}_per_second"]
            cells.append(f"{rate:,.1f}" if rate < 1000 else f"{rate:,.0f}")
            cells += [_ratio(found["ratio"])] if theirs else []
            cells += [f"{result['candidate']['peak_memory_bytes'] / 1e6:,.0f}"] if peaks else []
            table.add_row(*cells)
    same = [f"{key} {first['settings'][key]}" for key in _SWEPT if key not in swept]
    notes = _names(first["candidate"], theirs)
    if peaks:
        notes.append(f"MB: peak memory{' of the candidate' if theirs else ''}")
    if theirs:
        measured = [found for result in results for found in result["measures"].values()]
        if late := sum(not found["settled"] for found in measured):
            notes.append(f"In {late} of {len(measured)} rows {_unsettled(first['settings'])}")
        if apart := sum(medians_apart(found) is not None for found in measured):
            notes.append(
                f"In {apart} of {len(measured)} rows the medians' own quotient is another than the "
                f"ratio; {MEDIANS_APART}."
            )
    if noisy := sum(result["noise"]["noisy"] for result in results):
        notes.append(f"A noisy machine at {noisy} of {len(results)} points. {_noisy(bool(theirs))}")
    notes.append(_machine(first))
    return Group(
        Text(", ".join([*same, "median milliseconds"]), style="bold"),
        table,
        *(Text(note, style="dim") for note in notes),
    )


def _unsettled(settings: dict[str, Any]) -> str:
    return f"the time limit came before the 95 % interval was narrower than {settings['width']:.0%}"


def _noisy(compared: bool) -> str:
    paired = "; ratios are paired and state their interval" if compared else ""
    return f"The plain times may not repeat{paired}."


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    load = machine["load_average"]
    return (
        f"{result['remote'] + ': ' if 'remote' in result else ''}"
        f"{machine['processor']}, {machine['logical_cores']} cores"
        f"{f', load {load[0]:.1f}' if load else ''}, ONNX Runtime {machine['onnxruntime']}"
    )


def _ratio(ratio: dict[str, Any]) -> str:
    return f"{ratio['value']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _title(result: dict[str, Any]) -> str:
    settings = result["settings"]
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    if any(WORKS[kind].alone for kind in result["measures"]):
        return f"batch {settings['batch']}, {settings['tokens']} tokens, {threads}"
    steps = f", then {settings['decode_steps']} decoded" if "decode" in result["measures"] else ""
    batch = f"batch {settings['batch']}, " if settings["batch"] > 1 else ""
    return f"{batch}prompt of {settings['tokens']} tokens{steps}, {threads}"


def _add_speed(table: Table, kind: str, found: dict[str, Any]) -> None:
    models = [found[side] for side in ("baseline", "candidate") if side in found]
    gain: list[str] = []
    if ratio := found.get("ratio"):
        low, high = sorted(_upright(ratio["value"], ratio[end]) for end in ("low", "high"))
        gain = [f"{_gain(ratio['value'], 'faster', 'slower')} ({low:.2f}-{high:.2f})"]
    title = WORKS[kind].call
    table.add_row(f"{title}, median", *(f"{m['median_ms']:.2f} ms" for m in models), *gain)
    blank = [""] * len(gain)
    for percentile in ("p95", "p99"):
        cells = (f"{m[f'{percentile}_ms']:.2f} ms" for m in models)
        table.add_row(f"{title}, {percentile}", *cells, *blank)
    unit, named = WORKS[kind].unit, "" if WORKS[kind].alone else f"{kind}, "
    rates = (f"{m[f'{unit}_per_second']:,.1f}" for m in models)
    table.add_row(f"{named}{unit} a second", *rates, *blank)


def _add_counts(table: Table, counted: dict[str, Any]) -> None:
    for kind, sides in counted.items():
        models = [sides[side] for side in ("baseline", "candidate") if side in sides]
        for name in models[0]:
            cells = [f"{model[name] / 1e6:,.1f} M" for model in models]
            pair = len(models) > 1
            gain = [_gain(models[0][name] / models[1][name], "fewer", "more")] if pair else []
            table.add_row(f"{WORKS[kind].call}, {name}", *cells, *gain)


def _gain(ratio: float, better: str, worse: str) -> str:
    """Baseline over candidate in words that do not call a loss a gain: "1.25x slower"."""
    return f"{_upright(ratio, ratio):.2f}x {worse if ratio < 1 else better}"


def _upright(ratio: float, end: float) -> float:
    """One end of a ratio's interval, turned over where the ratio is below 1."""
    return 1 / end if ratio < 1 else end


def _profile(kind: str, sides: dict[str, Any]) -> Table:
    """Shares of the time by operator, the largest first."""
    shown = [side for side in ("baseline", "candidate") if side in sides]
    table = Table(box=SIMPLE_HEAD, title=f"{WORKS[kind].call}, by operator", title_justify="left")
    table.add_column("")
    for side in shown:
        table.add_column(side if len(shown) > 1 else "share", justify="right")
        table.add_column("ms", justify="right")
    profiles = [sides[side] for side in shown]
    names = {name for found in profiles for name in found["operators"]}
    nothing = {"share": 0.0, "ms": 0.0}
    rows = {name: [found["operators"].get(name, nothing) for found in profiles] for name in names}
    most_first = sorted(rows, key=lambda name: -max(entry["share"] for entry in rows[name]))
    for name in most_first[:_OPERATORS_SHOWN]:
        table.add_row(name, *_shares(rows[name]))
    if rest := [rows[name] for name in most_first[_OPERATORS_SHOWN:]]:
        sums = [
            {key: sum(entry[key] for entry in side) for key in nothing}
            for side in zip(*rest, strict=True)
        ]
        table.add_row(f"{len(rest)} others", *_shares(sums))
    between = [
        {"share": found["outside_share"], "ms": found["outside_share"] * found["run_ms"]}
        for found in profiles
    ]
    table.add_row("between operators", *_shares(between))
    return table


def _shares(entries: list[dict[str, float]]) -> list[str]:
    return [text for e in entries for text in (f"{e['share']:.1%}", f"{e['ms']:.3f}")]


def _names(ours: dict[str, Any], theirs: dict[str, Any] | None) -> list[str]:
    """What was run, and in what where that is not the runtime's default."""
    if theirs is None:
        return [f"{ours['name']}{_way(ours)}"]
    return [f"candidate: {ours['name']}{_way(ours)}", f"baseline:  {theirs['name']}{_way(theirs)}"]


def _way(model: dict[str, Any]) -> str:
    if model["fusions"] is None:
        return f", in {model['runtime']}"
    if model["fusions"] == "default fusions":
        return ""
    return f", with {SLOW_FUSIONS[0]} off, which is faster"
