"""The gate: a candidate beside a baseline, and whether anything became worse.

The baseline is a bundle, measured again in the same run and interleaved, or the file of an earlier
run. Everything is measured before anything is judged, so that a report is whole.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.words import listed
from edgeprune.export.opened import name_of, open_model
from edgeprune.measure.bench.compare import compare, measure, peak_memory
from edgeprune.measure.bench.record import Comparison, Side, Speed
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import Subject
from edgeprune.measure.check import checks
from edgeprune.measure.check.explain import explained
from edgeprune.measure.check.figures import (
    Figures,
    Quality,
    figures_of,
    identify,
    measured_as_built,
    read_figures,
)
from edgeprune.measure.check.quality import measure_quality
from edgeprune.measure.check.record import Check, Verdict
from edgeprune.measure.check.settings import Limits, QualityTask
from edgeprune.runtime.bundle import Bundle

# Peak memory repeats to a thousandth where the allocator is glibc's, whose chance bench takes out,
# and elsewhere what disturbs it mostly adds. So a first look beyond the limit is followed by two
# more, and the smallest of the three counts.
_MEMORY_PROCESSES = 3
_MIN_ROUNDS = 12
# Many short pairs, not few long ones: a neighbour's burst then spoils a smaller share of them, and
# their median takes no notice. Shorter still, the calls that warm the caches would eat the time.
_TURN_SECONDS = 0.03
_VERDICTS: dict[Verdict, str] = {
    "pass": "Nothing that was checked became worse than allowed",
    "fail": "Something became worse than allowed",
    "undecided": "Nothing is known to have become worse than allowed, and something is undecided",
    "skipped": "Nothing could be compared",
}


@dataclass(frozen=True)
class Outcome:
    """The figures that the gate measured, and its checks."""

    candidate: Figures
    baseline: Figures | None
    checks: Sequence[Check]
    limits: Limits
    disturbed: Sequence[str]
    """The signs of a noisy machine while speed was measured."""

    @property
    def verdict(self) -> Verdict:
        """The worst of all: a failure, else something undecided, else all is well; skipped where
        nothing was compared."""
        found = {check.verdict for check in self.checks}
        ranked: tuple[Verdict, ...] = ("fail", "undecided", "pass")
        return next((verdict for verdict in ranked if verdict in found), "skipped")

    @property
    def summary(self) -> str:
        """The verdict in a sentence, with all that was not checked."""
        if self.baseline is None:
            return f"{self.candidate.name} was measured, and compared with nothing."
        apart = [check.name for check in self.checks if check.verdict == "skipped"]
        without = f"; {listed(apart)} not checked" if apart else ""
        return f"{_VERDICTS[self.verdict]}{without}."

    def missed(self, strict: bool = False) -> list[str]:
        """The regressions, each as a sentence; where `strict`, what is undecided too."""
        missing = ("fail", "undecided") if strict else ("fail",)
        return [
            f"{check.name}: {check.sentence}" for check in self.checks if check.verdict in missing
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "summary": self.summary,
            "limits": self.limits.model_dump(),
            "checks": [check.to_json() for check in self.checks],
            "disturbed": list(self.disturbed),
            "candidate": self.candidate.to_json(),
            "baseline": self.baseline.to_json() if self.baseline else None,
        }


def check(
    candidate: str | Path,
    against: str | Path | None,
    limits: Limits,
    bench: BenchSettings,
    task: QualityTask,
    variant: str | None = None,
) -> Outcome:
    """Measure a candidate, and compare it with a baseline.

    Args:
        against: a bundle (or an ONNX or Hugging Face folder), or the file that `check --save` or
            `bench --json` wrote; None measures the candidate alone, and checks nothing.
        task: the quality measure to run on both sides, if any.
        variant: the name of the candidate's graph, where it has several; None: the saved
            baseline's, or the one that this processor runs fastest. A baseline with a graph of
            that name is compared by it.

    Raises:
        UserError: a side is damaged, cannot be measured, or is of another model; or a saved one
            has no quality to compare with, where one was asked for.
    """
    settings = bench.model_copy(
        update={
            "tune_baseline": False,  # both sides run in the same kind of session
            "min_rounds": max(bench.min_rounds, _MIN_ROUNDS),
            "turn_seconds": _TURN_SECONDS,
        }
    )
    with ExitStack() as stack:
        saved = read_figures(Path(against)) if against and _is_saved(against) else None
        opened = _whole(stack, candidate, variant, saved.variant if saved else None)
        if against is None:
            quality = measure_quality(task, opened, None)
            figures, disturbed = _alone(opened, candidate, settings, quality)
            return Outcome(figures, None, [], limits, disturbed)
        if saved:
            baseline_figures = saved
            checks.refuse_another_model(identify(opened, candidate), baseline_figures.identity)
            quality = measure_quality(task, opened, None)
            checks.refuse_other_quality(quality, baseline_figures)
            figures, disturbed = _alone(opened, candidate, settings, quality)
            speed, bundles = checks.saved_speed(figures, baseline_figures, limits), None
        else:
            opened_baseline = _whole(stack, against, None, opened.variant)
            checks.refuse_another_model(
                identify(opened, candidate), identify(opened_baseline, against)
            )
            # Quality first: what is wrong with its data is told before minutes of timing.
            qualities = [
                measure_quality(task, bundle, opened_baseline)
                for bundle in (opened, opened_baseline)
            ]
            result = compare(opened, opened_baseline, settings)
            result = _look_at_memory_again(result, opened, opened_baseline, settings, limits)
            figures = figures_of(opened, name_of(candidate), result, "candidate", qualities[0])
            baseline_figures = figures_of(
                opened_baseline, name_of(against), result, "baseline", qualities[1]
            )
            disturbed = _disturbed(result)
            ratios = {work: found.ratio for work, found in result.measures.items()}
            speed = checks.paired_speed(figures, baseline_figures, ratios, limits, settings)
            bundles = (opened, opened_baseline)
        found = [
            checks.same_source(figures.identity, baseline_figures.identity),
            checks.size(figures, baseline_figures, limits),
            *checks.operators(figures, baseline_figures, limits),
            checks.memory(figures, baseline_figures, limits),
            *speed,
            *checks.as_built(figures, baseline_figures, limits),
            checks.quality(figures, baseline_figures, limits),
        ]
        told = explained(found, (figures, baseline_figures), bundles, settings)
    return Outcome(figures, baseline_figures, told, limits, disturbed)


def save(figures: Figures, file: Path) -> None:
    """Write figures to be a later run's baseline, whole or not at all.

    Raises:
        UserError: what stands there cannot be replaced.
    """
    figures.write(file)


def _whole(stack: ExitStack, place: str | Path, variant: str | None, rather: str | None) -> Bundle:
    """A side, with every byte compared with its manifest, which must be whole itself.

    Args:
        variant: the name of its graph.
        rather: the name of the one to open where none is named and there is such a one.
    """
    bundle = stack.enter_context(open_model(place)) if variant is None else None
    if bundle is None or (rather != bundle.variant and rather in bundle.variants):
        bundle = Bundle.open(place, variant or rather)
    bundle.verify()
    measured_as_built(bundle)
    return bundle


def _is_saved(place: str | Path) -> bool:
    path = Path(place)
    return path.is_file() and path.suffix != ".onnx"


def _alone(
    bundle: Bundle, place: str | Path, settings: BenchSettings, quality: Quality | None
) -> tuple[Figures, Sequence[str]]:
    """A side's figures, and what disturbed their measurement."""
    result = measure(bundle, settings)
    figures = figures_of(bundle, name_of(place), result, "candidate", quality)
    return figures, _disturbed(result)


def _disturbed(result: Speed) -> Sequence[str]:
    return result.noise.why if result.noise else ()


def _look_at_memory_again(
    result: Comparison,
    opened: Bundle,
    opened_baseline: Bundle,
    settings: BenchSettings,
    limits: Limits,
) -> Comparison:
    """The same with peak memory measured in two more processes of each side, where the first pair
    would fail."""
    peak, allowed = (side.peak_memory_bytes for side in (result.candidate, result.baseline))
    if peak is None or allowed is None or peak <= allowed * (1 + limits.max_memory / 100):
        return result
    return result.model_copy(
        update={
            "candidate": _least_memory(result.candidate, opened, settings),
            "baseline": _least_memory(result.baseline, opened_baseline, settings),
        }
    )


def _least_memory(side: Side, bundle: Bundle, settings: BenchSettings) -> Side:
    """A side with the least memory of the first process and two more."""
    subject = Subject.of(bundle)
    again = [peak_memory(subject, settings) for _ in range(_MEMORY_PROCESSES - 1)]
    peaks = [peak for peak in (side.peak_memory_bytes, *again) if peak is not None]
    return side.model_copy(update={"peak_memory_bytes": min(peaks)})
