"""What `edgeprune build` prints: the preview of a dry run, and the result beside the original."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeprune.build import Build
from edgeprune.pipeline import MARK, Outcome
from edgeprune.preview import expected, preview
from edgeprune.report.figures import Cell, comparison, conditions
from edgeprune.report.made import made
from edgeprune.report.records import open_record
from edgeprune.report.story import meaning, requirements, verdict
from edgeprune.report.words import size

# What users name, brackets and all, is printed as it is.
_console = Console(highlight=False, markup=False, emoji=False)
_WORSE = "red"
"""One colour, that light and dark terminals both show; the words say the same without it."""


def show_preview(build: Build, every: bool = False) -> None:
    """What would come of it, then what each stage would do to this model; every setting after."""
    given = build.recipe, build.checkpoint, build.corpus
    would = expected(build.recipe, build.checkpoint)
    _console.print(would.made.title, style="bold", soft_wrap=True)
    _console.print(would.made.sentence)
    facts = Table.grid(padding=(0, 2, 0, 0))
    for what, line in would.facts:
        facts.add_row(what, line)
    _console.print(facts)
    _console.print()
    table = Table("stage", "would do", box=None, padding=(0, 2, 0, 0))
    before = None
    for stage, line in preview(*given):
        table.add_row("" if stage == before else stage, line)
        before = stage
    _console.print(table)
    _console.print()
    if every:
        # A copy of it, however long its lines.
        _console.print(build.recipe.to_yaml(), soft_wrap=True)
    else:
        _console.print("Every setting: the same command with --all.")
    _console.print(f"Nothing was touched; the output would be {build.output}.", soft_wrap=True)


def show_outcome(outcome: Outcome) -> None:
    """What was made and whether it is what was required; original against result; what is where."""
    folder = outcome.report.parent
    record = open_record(folder)
    result, judged = made(record), requirements(record)
    _console.print(result.title, style="bold", soft_wrap=True)
    _console.print(result.sentence)
    if judged:
        missed = not all(each.met for each in judged)
        _console.print(verdict(judged), style=f"bold {_WORSE}" if missed else "bold")
        required = Table("required", "asked", "measured", "", box=None, padding=(0, 2, 0, 0))
        for each in judged:
            known = str(Cell(each.measured, each.interval))
            met = Text("met") if each.met else Text("missed", style=_WORSE)
            required.add_row(each.of, each.asked, known, met)
        _console.print(required)
    _console.print()
    table = Table("measured", "original", "result", "change", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison(record):
        its = row.result.text if row.change.text else str(row.result)
        table.add_row(row.what, row.original.text, its, _toned(row.change))
    _console.print(table)
    for line in (conditions(record), " ".join(meaning(record))):
        if line:
            _console.print(line, style="dim")
    for what, place in (
        ("bundle", outcome.bundle),
        ("original", outcome.original),
        ("report", outcome.report),
        (
            "stages",
            f"{folder / MARK}, {size(_bytes(folder / MARK))}, which nothing above needs: "
            "kept for the next build to go on from; delete it for the room",
        ),
    ):
        _console.print(f"{what:<9} {place}", soft_wrap=True)


def _toned(cell: Cell) -> Text:
    return Text(str(cell), style=_WORSE if cell.tone == "worse" else "")


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
