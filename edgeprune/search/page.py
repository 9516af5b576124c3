"""The page of a search: the front, what was predicted beside what was measured, every trial."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.base.files import replace_file
from edgeprune.base.words import duration, listed
from edgeprune.report.canvas import MARKERS, ORIGINAL, SERIES, SURFACE, draw, quiet_axes
from edgeprune.report.figures import Cell
from edgeprune.report.headline import Headline
from edgeprune.report.sections.part import Section, Table
from edgeprune.report.write import Page, render
from edgeprune.search.record import Found, SearchRecord
from edgeprune.search.terminal import loss_line, sentences, shape_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "search.html"


def write_page(record: SearchRecord, folder: Path) -> Path:
    """Write search.html, whole or not at all; returns its path."""
    file = folder / PAGE
    replace_file(file, render(search_page(record)))
    return file


def search_page(record: SearchRecord) -> Page:
    """The page of a search, however far it came."""
    title = f"{record.model}: {len(record.models)} models"
    lead = [f"Text: {record.text}", f"The search took {duration(record.seconds)}."]
    if asked := [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in _asked(record)]:
        lead.insert(0, f"Asked for: {listed(asked)}")
    found = sentences(record)[1:]
    return Page(
        title=title,
        heading=title,
        lead=lead,
        verdict=Headline(
            " ".join(line.strip() for line in found), tone="worse" if record.verdict else ""
        ),
        sections=[_front(record), _predicted(record), _trials(record)],
    )


def _asked(record: SearchRecord) -> list[tuple[str, object]]:
    return [(name, value) for name, value in record.wish.items() if value not in (None, [], ())]


def _shown(value: object) -> str:
    return listed([f"{each:g}" for each in value]) if isinstance(value, list) else f"{value:g}"


def _front(record: SearchRecord) -> Section:
    head = ["model", "layers; heads; channels", "times as fast", "lost", "MB", "peak MB", "trained"]
    rows: list[Sequence[str | Cell]] = [
        [
            found.name + (" (the answer)" if found.name == record.best else ""),
            shape_line(found),
            _speed(found),
            loss_line(found),
            f"{found.megabytes:.1f}",
            "" if found.memory_megabytes is None else f"{found.memory_megabytes:.0f}",
            duration(60 * found.minutes) if found.minutes else "",
        ]
        for found in record.models
    ]
    first, settings = record.models[0], record.settings
    text = (
        f"Lost: {first.loss_of}, against the original. Times are of {settings['tokens']} tokens, "
        f"batch {settings['batch']}, {settings['threads']} thread(s), each model beside the "
        "original in its own run; intervals are of 95 %. Each model is a bundle with a report of "
        "its own in models/."
    )
    return Section(
        "front",
        "The models",
        pictures=[_picture(record)],
        tables=[Table(head, rows, words=frozenset({0, 1}))],
        text=text,
    )


def _speed(found: Found) -> Cell:
    ratio = found.speedup
    return Cell(f"{ratio.value:.2f}x", f"{ratio.low:.2f} to {ratio.high:.2f}")


def _picture(record: SearchRecord) -> str:
    """Loss against speed; further right is faster, further up is nearer to the original."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes, "both")
        speeds = [found.speedup.value for found in record.models]
        axes.plot([1.0, *speeds], [0.0, *(f.loss for f in record.models)], color=ORIGINAL, lw=1.0)
        axes.plot(1.0, 0.0, MARKERS[0], color=ORIGINAL, label="original")
        for number, found in enumerate(record.models):
            ends = found.loss_interval
            axes.errorbar(
                found.speedup.value,
                found.loss,
                xerr=_reach(found.speedup.value, found.speedup.low, found.speedup.high),
                yerr=_reach(found.loss, *ends) if ends else None,
                fmt=MARKERS[1 if found.name == record.best else 2],
                color=SERIES[0 if found.name == record.best else 1],
                markeredgecolor=SURFACE,
                markersize=8 if found.name == record.best else 6.5,
                elinewidth=1.4,
                label=_label(record, number),
                zorder=3,
            )
        axes.set_xscale("log")
        ticks = [tick for tick in (1, 2, 3, 5, 7, 10, 14, 20, 40, 80) if tick <= 1.3 * max(speeds)]
        axes.set_xticks(ticks, [f"{tick}x" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.invert_yaxis()
        axes.set_xlabel("times as fast as the original")
        axes.set_ylabel(f"{record.models[0].loss_of} lost; better upwards")
        axes.margins(0.08, 0.14)
        figure.legend(loc="outside lower left", ncols=2, handletextpad=0.3)

    return draw("front", "what is lost against speed", 3.6 + 0.1 * len(record.models), paint)


def _label(record: SearchRecord, number: int) -> str:
    """The first model of each kind of mark names it."""
    found = record.models[number]
    if found.name == record.best:
        return "the answer"
    others = [each.name for each in record.models if each.name != record.best]
    return "other models" if found.name == others[0] else "_"


def _reach(value: float, low: float, high: float) -> list[list[float]]:
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _predicted(record: SearchRecord) -> Section:
    """Speed by the table of times beside what was measured."""
    pairs = [(found.name, found.predicted, found.speedup.value) for found in record.models[1:]]
    pairs += [(trial.name, trial.predicted, trial.speedup) for trial in record.trials]
    if not pairs:
        return Section("predicted", "Predicted and measured")
    rows = [
        [name, f"{before:.2f}x", f"{after:.2f}x", f"{100 * (before / after - 1):+.1f} %"]
        for name, before, after in pairs
    ]
    off = sorted(abs(before / after - 1) for _, before, after in pairs)
    text = (
        "Each was predicted from the times of blocks, as earlier models had corrected them, before "
        f"it was timed: off by {off[len(off) // 2]:.1%} at the median, {off[-1]:.1%} at worst."
    )
    return Section(
        "predicted",
        "Predicted and measured",
        tables=[Table(["model", "predicted", "measured", "off by"], rows)],
        text=text,
    )


def _trials(record: SearchRecord) -> Section:
    """Candidates that were trained briefly."""
    if not record.trials:
        return Section("trials", "Trials")
    rows: list[Sequence[str | Cell]] = [
        [
            trial.name,
            shape_line(trial),
            f"{trial.speedup:.2f}x",
            f"{trial.held_out:.4g}",
            duration(60 * trial.minutes),
        ]
        for trial in record.trials
    ]
    text = (
        "Candidates for each model, trained briefly: the least loss on held-out text went on to "
        "the long training. Their speeds are from short runs."
    )
    head = ["trial", "layers; heads; channels", "times as fast", "held-out loss", "trained"]
    return Section(
        "trials", "Trials", tables=[Table(head, rows, words=frozenset({0, 1}))], text=text
    )
