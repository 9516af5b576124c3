"""The gate's findings as a table, as Markdown, as JUnit's XML, and as JSON."""

import json
from collections.abc import Callable
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.escape import markdown as _escaped
from edgeprune.base.escape import printable
from edgeprune.measure.check.record import Check
from edgeprune.measure.check.run import Outcome

# Colours that light and dark terminals both show.
_STYLES = {"pass": "green", "fail": "bold red", "undecided": "magenta", "skipped": "dim"}
_SIGNS = {"pass": "✅", "fail": "❌", "undecided": "❔", "skipped": "➖"}
_UNITS: dict[str, Callable[[float], str]] = {
    "bytes": lambda value: f"{value / 1e6:,.2f} MB",
    "ms": lambda value: f"{value:,.2f} ms",
    "operators": lambda value: f"{value:,.0f}",
    "": lambda value: f"{value:.4g}",
}
_HEADS = ("baseline", "result", "change", "at most")


def text(outcome: Outcome) -> RenderableType:
    """The verdict, a table for a terminal of 80 columns, then a line for whatever needs words."""
    notes = [Text(note, style="dim") for note in _notes(outcome)]
    verdict = Text(outcome.summary, style=_STYLES[outcome.verdict])
    if outcome.baseline is None:
        return Group(Text(outcome.summary), *notes)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for head in _HEADS:
        table.add_column(head, justify="right")
    table.add_column("")
    for check in outcome.checks:
        found = Text(check.verdict, style=_STYLES[check.verdict])
        table.add_row(check.name, *_cells(check), found)
    said = [
        line
        for check in _worth_words(outcome)
        for line in (
            Text(f"{check.name}: {check.said}", style=_STYLES[check.verdict]),
            *(Text(f"  {reason}") for reason in check.why),
        )
    ]
    return Group(verdict, table, *said, *notes)


def markdown(outcome: Outcome, strict: bool = False) -> str:
    """A comment for a pull request."""
    lines = [
        f"### EdgePrune: {outcome.verdict}",
        "",
        _escaped(outcome.summary),
        "",
        f"| | {' | '.join(_HEADS)} | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for check in outcome.checks:
        cells = [check.name, *_cells(check), f"{_SIGNS[check.verdict]} {check.verdict}"]
        lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    lines.append("")
    for check in _worth_words(outcome):
        lines.append(f"- **{_escaped(check.name)}**: {_escaped(check.said)}")
        lines += [f"  - {_escaped(reason)}" for reason in check.why]
    for note in _notes(outcome):
        lines += ["", _escaped(note)]
    return "\n".join(lines)


def junit(outcome: Outcome, strict: bool) -> str:
    """JUnit's XML: a test case a check; skipped where it was not made, or is undecided. The verdict
    is a property of the suite."""
    suite = ElementTree.Element("testsuite", name="edgeprune check")
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("verdict", outcome.verdict), ("summary", outcome.summary)):
        ElementTree.SubElement(properties, "property", name=name, value=value)
    counts = {"failure": 0, "skipped": 0}
    for check in outcome.checks:
        case = ElementTree.SubElement(suite, "testcase", classname="edgeprune", name=check.name)
        kind = _junit_kind(check, strict)
        if kind is None:
            ElementTree.SubElement(case, "system-out").text = check.said
            continue
        counts[kind] += 1
        found = ElementTree.SubElement(case, kind, message=check.said)
        if check.why:
            found.text = "\n".join(check.why)
    suite.set("tests", str(len(outcome.checks)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", "0")
    suite.set("skipped", str(counts["skipped"]))
    ElementTree.indent(suite)
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return declaration + printable(ElementTree.tostring(suite, encoding="unicode"))


def as_json(outcome: Outcome, strict: bool = False) -> str:
    """Everything that was measured, and every check."""
    return json.dumps(outcome.to_json(), indent=2, ensure_ascii=False, allow_nan=False)


# Those that are plain text, by name.
FORMATS: dict[str, Callable[[Outcome, bool], str]] = {
    "json": as_json,
    "junit": junit,
    "markdown": markdown,
}


def _worth_words(outcome: Outcome) -> list[Check]:
    """The checks of which the table does not say enough."""
    return [check for check in outcome.checks if check.verdict != "pass" or check.note]


def _junit_kind(check: Check, strict: bool) -> str | None:
    if check.verdict == "fail" or (strict and check.verdict == "undecided"):
        return "failure"
    return None if check.verdict == "pass" else "skipped"


def _cells(check: Check) -> list[str]:
    """Baseline, candidate, change and limit; empty where there is no such figure."""
    unit = _UNITS[check.unit]
    sign = " %" if check.relative else "" if check.unit else " pt"
    digits = 0 if check.unit == "operators" and not check.relative else 2 if not check.unit else 1
    return [
        "" if check.baseline is None else unit(check.baseline),
        "" if check.candidate is None else unit(check.candidate),
        "" if check.change is None else f"{check.change:+.{digits}f}{sign}",
        "" if check.limit is None else f"{check.limit:+g}{sign}",
    ]


def _notes(outcome: Outcome) -> list[str]:
    """The models that were compared, and whether the machine was quiet."""
    notes = []
    if outcome.baseline is not None:
        notes.append(f"{outcome.candidate.name} against {outcome.baseline.name}")
    if outcome.disturbed:
        notes.append(f"A noisy machine: {', and '.join(outcome.disturbed)}.")
    return notes
