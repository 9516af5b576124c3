"""The reasons for a regression: which operator and which layer took the time, which tensors grew,
which classes and which tensors lost.

The two graphs are looked at once more, each profiled by the runtime: what is measured here explains
a verdict and decides none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgeprune.base.words import listed, many, number, size
from edgeprune.measure.bench.process import choose_cores
from edgeprune.measure.bench.profile import profile_of
from edgeprune.measure.bench.record import Profile
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import Subject
from edgeprune.measure.check.figures import Figures, Quality
from edgeprune.measure.check.record import Check
from edgeprune.measure.inspect.describe import describe
from edgeprune.measure.inspect.record import Layer, OnnxFolder
from edgeprune.measure.works import WORKS, Work
from edgeprune.runtime.bundle import Bundle

_NAMED = 3
"""Operators, layers, tensors or classes that are named of many."""
_LEAST_SHARE = 0.05
"""Share of the whole growth from which something is named."""
_LATENCY: Mapping[str, Work] = {words.latency: work for work, words in WORKS.items()}
_STORED = ("graph and data", "peak memory")
_UNKNOWN = "which layer and which operator, a saved baseline does not tell: name its bundle"


def explained(
    checks: Sequence[Check],
    figures: tuple[Figures, Figures],
    bundles: tuple[Bundle, Bundle] | None,
    settings: BenchSettings,
) -> list[Check]:
    """The checks, those that failed with the reasons that were found.

    Args:
        figures: the candidate's and the baseline's.
        bundles: the same two; None where the baseline is a saved result.
        settings: those under which speed was measured.
    """
    found = []
    for check in checks:
        why = _reasons(check, figures, bundles, settings) if check.verdict == "fail" else []
        found.append(check.model_copy(update={"why": tuple(why)}) if why else check)
    return found


def _reasons(
    check: Check,
    figures: tuple[Figures, Figures],
    bundles: tuple[Bundle, Bundle] | None,
    settings: BenchSettings,
) -> list[str]:
    if check.name == "operators":
        return _more_operators(*figures)
    if check.name.endswith((" quality", " as built")):
        return _worse(check, figures, bundles)
    if check.name not in (*_LATENCY, *_STORED):
        return []
    if bundles is None:
        return [_UNKNOWN]
    if work := _LATENCY.get(check.name):
        return _slower(bundles, work, settings)
    return grown(*map(_layers, bundles))


# time ------------------------------------------------------------------------------------------


def _slower(bundles: tuple[Bundle, Bundle], work: Work, settings: BenchSettings) -> list[str]:
    cores = choose_cores(settings.threads)
    profiles = [profile_of(Subject.of(each), work, settings, cores) for each in bundles]
    if not all(isinstance(each, Profile) for each in profiles):
        return []
    return slower(*profiles)  # type: ignore[arg-type]


def slower(candidate: Profile, baseline: Profile) -> list[str]:
    """The operators and the layers that take more of a call than they did, what grew most first."""
    whole = candidate.run_ms - baseline.run_ms
    if whole <= 0:
        return [
            f"profiled once more, a call took {candidate.run_ms:.3f} ms where it took "
            f"{baseline.run_ms:.3f}: no operator accounts for it"
        ]
    lines = []
    kinds = _growth(
        {name: spent.ms for name, spent in candidate.operators.items()},
        {name: spent.ms for name, spent in baseline.operators.items()},
        whole,
    )
    counts = [
        {name: spent.count for name, spent in each.operators.items()}
        for each in (candidate, baseline)
    ]
    if kinds:
        told = [
            f"{name} {more:+.3f} ms{_counted(*(each.get(name, 0) for each in counts))}"
            for name, more in kinds
        ]
        lines.append(f"by operator, of {whole:+.3f} ms in a profiled call: {listed(told)}")
    if layers := _growth(candidate.layers, baseline.layers, whole):
        told = [f"{_place(name)} {more:+.3f} ms" for name, more in layers]
        lines.append(f"by layer: {listed(told)}")
    return lines


def _counted(now: float, before: float) -> str:
    """The calls of an operator in a run, where they changed."""
    return "" if round(now) == round(before) else f" ({now:.0f} calls, not {before:.0f})"


def _place(layer: str) -> str:
    return f"layer {layer}" if layer else "outside the layers"


def _growth(
    now: Mapping[str, float], before: Mapping[str, float], whole: float
) -> list[tuple[str, float]]:
    """Those that grew by a share of the whole that is worth a word, most first."""
    grown = {name: value - before.get(name, 0.0) for name, value in now.items()}
    most = sorted(grown.items(), key=lambda entry: -entry[1])[:_NAMED]
    return [(name, more) for name, more in most if more >= _LEAST_SHARE * whole]


# bytes and operators ---------------------------------------------------------------------------


def _layers(bundle: Bundle) -> Sequence[Layer]:
    found = describe(bundle.folder)
    return found.layers if isinstance(found, OnnxFolder) else ()


def grown(candidate: Sequence[Layer], baseline: Sequence[Layer]) -> list[str]:
    """The tensors that take more bytes than they did, or are new, what grew most first."""
    before = {layer.name: layer for layer in baseline}
    more = [(layer, layer.bytes - _bytes(before.get(layer.name))) for layer in candidate]
    most = sorted(more, key=lambda entry: -entry[1])[:_NAMED]
    told = [
        f"{layer.name} +{size(added)}{_changed(layer, before)}"
        for layer, added in most
        if added > 0
    ]
    return [f"by tensor: {listed(told)}"] if told else []


def _bytes(layer: Layer | None) -> int:
    return layer.bytes if layer else 0


def _changed(layer: Layer, before: Mapping[str, Layer]) -> str:
    """A tensor's change: it is new, or has other bits or another shape."""
    old = before.get(layer.name)
    if old is None:
        return " (new)"
    parts = [f"{layer.bits} bits, not {old.bits}"] if layer.bits != old.bits else []
    if layer.shape != old.shape:
        shown = [" x ".join(map(str, shape)) for shape in (layer.shape, old.shape)]
        parts.append(f"{shown[0]}, not {shown[1]}")
    return f" ({'; '.join(parts)})" if parts else ""


def _more_operators(candidate: Figures, baseline: Figures) -> list[str]:
    """The kinds of operators that became more, most first."""
    if candidate.operators is None or baseline.operators is None:
        return []
    more = Counter(candidate.operators.run)
    more.subtract(baseline.operators.run)
    told = [f"+{count:,} {kind}" for kind, count in more.most_common(_NAMED) if count > 0]
    return [f"by kind: {listed(told)}"] if told else []


# quality ---------------------------------------------------------------------------------------


def _worse(
    check: Check, figures: tuple[Figures, Figures], bundles: tuple[Bundle, Bundle] | None
) -> list[str]:
    lines = []
    if check.name.endswith(" quality") and all(each.quality for each in figures):
        lines += worse_classes(*(each.quality for each in figures))  # type: ignore[arg-type]
    if bundles:
        lines += worse_tensors(*(_rounding(each.manifest) for each in bundles))
    return lines


def worse_classes(candidate: Quality, baseline: Quality) -> list[str]:
    """The classes whose F1 fell most."""
    lost = {
        name: baseline.classes[name] - value
        for name, value in candidate.classes.items()
        if name in baseline.classes
    }
    most = sorted(lost.items(), key=lambda entry: -entry[1])[:_NAMED]
    told = [
        f"{name} ({number(baseline.classes[name])} to {number(candidate.classes[name])})"
        for name, less in most
        if less > 0
    ]
    fallen = sum(less > 0 for less in lost.values())
    if not told:
        return []
    return [f"F1 of {many(fallen, 'class', 'classes')} fell, most of {listed(told)}"]


def _rounding(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The relative error of each tensor's rounding, as the build told it; empty where it did not,
    or where what it told is damaged."""
    for stage in manifest.get("stages") or []:
        errors = stage.get("errors") if isinstance(stage, dict) else None
        if isinstance(errors, dict):
            return {
                name: float(each["relative"])
                for name, each in errors.items()
                if isinstance(each, dict) and isinstance(each.get("relative"), int | float)
            }
    return {}


def worse_tensors(candidate: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """The tensors that rounding changes more than it did, as both builds tell; most first."""
    more = {name: error - baseline.get(name, 0.0) for name, error in candidate.items()}
    most = sorted(more.items(), key=lambda entry: -entry[1])[:_NAMED]
    told = [
        f"{name} ({candidate[name]:.2%}, not {baseline.get(name, 0.0):.2%})"
        for name, added in most
        if added > 0
    ]
    return [f"rounding changes these tensors more: {listed(told)}"] if told else []
