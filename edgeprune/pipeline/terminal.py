"""The output of `edgeprune build`: a dry run's preview, and the result beside the original."""

import shlex
from pathlib import Path

from rich.table import Table
from rich.text import Text

from edgeprune.base.console import Terminal
from edgeprune.base.words import size
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.finish import NOT_MEASURED, Outcome
from edgeprune.pipeline.keep import MARK
from edgeprune.pipeline.preview import expected, outlook
from edgeprune.report.figures import Cell, comparison, conditions
from edgeprune.report.headline import headline, own_task
from edgeprune.report.made import made
from edgeprune.report.records import BuildRecord, open_record
from edgeprune.report.story import meaning, requirements, told_parts

_console = Terminal()
_WIDE = 100
"""Columns from which on intervals stand beside their figures."""
_WORSE = "red"
"""One colour, that light and dark terminals both show; the words say the same without it."""


def show_preview(build: Build, every: bool = False) -> None:
    """Print the expected result, then each stage's work on this model; with `every`, all
    settings."""
    would = expected(build, outlook(build))
    _console.print(would.made.title, style="bold", soft_wrap=True)
    _console.print(would.made.sentence)
    facts = Table.grid(padding=(0, 2, 0, 0))
    for what, line in would.facts:
        facts.add_row(what, line)
    _console.print(facts)
    _console.print()
    table = Table("stage", "would do", box=None, padding=(0, 2, 0, 0))
    before = None
    for stage, line in would.stages:
        table.add_row("" if stage == before else stage, line)
        before = stage
    _console.print(table)
    _console.print()
    if every:
        # A copy of it, however long its lines.
        _console.print(build.recipe.to_yaml(), soft_wrap=True)
    else:
        _console.print("Every setting: the same command with --all.")
    _console.print(
        f"Nothing was touched; the output would be {build.context.output}.", soft_wrap=True
    )


def show_outcome(outcome: Outcome) -> None:
    """Print what was made, the requirements, original against result, and where the files lie."""
    folder = outcome.bundle.parent
    if outcome.report is None:
        _console.print(NOT_MEASURED)
        _show_places(folder, ("bundle", outcome.bundle))
        return
    record = open_record(folder)
    result, judged, said = made(record), requirements(record), headline(record)
    style = f"bold {_WORSE}" if said.tone == "worse" else "bold"
    _console.print(str(said), style=style, soft_wrap=True)
    _console.print()
    _console.print(result.title, soft_wrap=True)
    _console.print(result.sentence)
    if judged:
        required = Table("required", "asked", "measured", "", box=None, padding=(0, 2, 0, 0))
        for each in judged:
            met = Cell("met") if each.met else Cell("missed", tone="worse")
            known = Cell(each.measured, each.interval)
            required.add_row(each.of, each.asked, _shown(known), _shown(met))
        _console.print(required)
    _console.print()
    table = Table("measured", "original", "result", "change", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison(record):
        value = Cell(row.result.text) if row.change.text else row.result
        table.add_row(row.what, row.original.text, _shown(value), _shown(row.change))
    _console.print(table)
    for line in (conditions(record), " ".join(meaning(record)), *told_parts(record)):
        if line:
            _console.print(line, style="dim")
    places = (
        ("bundle", outcome.bundle),
        ("original", outcome.original),
        ("report", outcome.report),
    )
    _show_places(folder, *places)
    _console.print(f"{'next':<9} {_next(record, outcome.bundle, outcome.original)}", soft_wrap=True)


def _next(record: BuildRecord, bundle: Path, original: Path | None) -> str:
    """The next step after a build: see what a limit would cost, measure its own task, or use it."""
    place = shlex.quote(str(bundle))
    if any(not each.met for each in requirements(record)):
        return "edgeprune search --help: the best model within a limit; or remove less (--set)"
    fitting = TASKS[record.task].measures
    own = next((name for name, each in MEASURES.items() if each.own and name in fitting), None)
    if own and not own_task(record):
        against = f" --against {shlex.quote(str(original))}" if original else ""
        return f"edgeprune evaluate {place} --task {own} --data YOURS.jsonl{against}"
    return f"edgeprune serve {place}"


def _show_places(folder: Path, *places: tuple[str, Path | None]) -> None:
    """Print the places in an output folder."""
    stages = folder / MARK
    kept = f"{stages}, {size(_bytes(stages))}: for a later build to go on from; delete at will"
    for what, place in (*places, (MARK, kept)):
        _console.print(f"{what:<9} {place}", soft_wrap=True)


def _shown(cell: Cell) -> Text:
    """A figure, with its interval beside it, or below where the terminal is narrow."""
    text = str(cell) if _console.width >= _WIDE else f"{cell.text}\n{cell.interval}".rstrip()
    return Text(text, style=_WORSE if cell.tone == "worse" else "")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
