"""What `edgeprune build` prints: the preview of a dry run, and the result beside the original."""

from rich.syntax import Syntax
from rich.table import Table

from edgeprune.build import Build
from edgeprune.console import Terminal
from edgeprune.pipeline import Outcome
from edgeprune.preview import preview
from edgeprune.report.figures import comparison, conditions
from edgeprune.report.records import open_record

_console = Terminal()


def show_preview(build: Build) -> None:
    """The resolved recipe, then what each stage would do to this model."""
    recipe = build.recipe.to_yaml()
    highlighted = Syntax(recipe, "yaml", background_color="default").highlight(recipe)
    _console.print(highlighted, soft_wrap=True)  # a copy of it, however long its lines
    table = Table("stage", "would do", box=None, padding=(0, 2, 0, 0))
    for stage, line in preview(build.recipe, build.checkpoint, build.corpus):
        table.add_row(stage, line)
    _console.print(table)
    _console.print(f"Nothing was touched; the output would be {build.output}.", soft_wrap=True)


def show_outcome(outcome: Outcome) -> None:
    """The table of original against result, and where everything is."""
    record = open_record(outcome.report.parent)
    table = Table("measured", "original", "result", "change", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison(record):
        result = row.result.text if row.change.text else str(row.result)
        table.add_row(row.what, row.original.text, result, str(row.change))
    _console.print(table)
    _console.print(conditions(record), style="dim")
    _console.print(f"bundle    {outcome.bundle}", soft_wrap=True)
    _console.print(f"original  {outcome.original}", soft_wrap=True)
    _console.print(f"report    {outcome.report}", soft_wrap=True)
