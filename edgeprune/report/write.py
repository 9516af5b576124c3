"""The pages: one build's report.html beside its report.json, or several builds' in one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.files import replace_file
from edgeprune.base.words import listed, many
from edgeprune.report import compare
from edgeprune.report.canvas import check_drawable
from edgeprune.report.headline import Headline, headline
from edgeprune.report.layout import environment
from edgeprune.report.made import made
from edgeprune.report.others import Other, joined, read_others
from edgeprune.report.records import REPORT, BuildRecord, open_record
from edgeprune.report.sections.build import sections
from edgeprune.report.sections.part import Section
from edgeprune.report.story import Tile, tiles

PAGE = "report.html"


@dataclass(frozen=True)
class Page:
    """The content of a page, for the template."""

    title: str
    heading: str
    lead: Sequence[str]
    sections: Sequence[Section]
    tiles: Sequence[Tile] = ()
    verdict: Headline | None = None
    facts: Sequence[tuple[str, str]] = ()
    """When, by what and on what it was built, of what, and from what text."""
    command: str = ""
    """The command that repeats it."""
    footer: str = "Written by edgeprune. This page holds everything that it shows."


def write_report(folder: Path, content: dict[str, Any]) -> Path:
    """Write report.json and report.html, each whole or not at all; returns the page's path."""
    replace_file(folder / REPORT, json.dumps(content, indent=1, ensure_ascii=False))
    page = folder / PAGE
    replace_file(page, render(build_page(open_record(folder))))
    return page


def build_page(record: BuildRecord, others: Sequence[Other] = ()) -> Page:
    """One build's page.

    Args:
        others: what else was measured, to stand beside it.
    """
    result = made(record)
    return Page(
        title=result.title,
        heading=result.title,
        lead=[result.sentence],
        tiles=tiles(record),
        sections=sections(record, others),
        verdict=headline(record),
        facts=_facts(record),
        command=record.built.get("command", ""),
    )


def _facts(record: BuildRecord) -> list[tuple[str, str]]:
    """The facts that a reader needs to believe the figures, or to get them again."""
    machine, text = record.speed.machine, record.content.get("text")
    found = [("Built", record.built.get("at", "on a day that was not recorded"))]
    found.append(("By", f"edgeprune {machine.edgeprune}, ONNX Runtime {machine.onnxruntime}"))
    cores = many(machine.logical_cores or 1, "core")
    found.append(("Measured on", f"{machine.processor}, {cores}, {machine.system}"))
    found.append(("Original", f"{record.model}, {record.task}"))
    if text:
        found.append(("Text", f"{text['documents']:,} texts of {text['source']}"))
    if recipe := record.recipe.get("name"):
        found.append(("Recipe", recipe))
    return found


def compare_page(records: Sequence[BuildRecord], others: Sequence[Other] = ()) -> Page:
    """Several builds' page.

    Raises:
        UserError: the builds do different tasks.
    """
    names = [record.name for record in records]
    originals = list(dict.fromkeys(record.model for record in records))
    return Page(
        title=f"{len(records)} builds: {', '.join(names)}",
        heading=f"{len(records)} builds",
        lead=[listed(names), f"Of {listed(originals)}, {records[0].task}"],
        sections=compare.sections(records, others),
    )


def report(places: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page of the builds and results that are named; returns its path.

    Args:
        places: folders of builds or bundles, and result files of bench and evaluate.
        output: where to; one build's own report.html, or report.html here for several.

    Raises:
        UserError: no folder is named, one holds no build, a file is not a result, or the builds do
            different tasks.
    """
    check_drawable()
    folders = [place for place in places if not place.is_file()]
    if not folders:
        raise UserError("Name the folder of a build; result files stand beside it.")
    others = read_others(place for place in places if place.is_file())
    records = []
    for folder, name in zip(folders, compare.names_of(folders), strict=True):
        record, others = joined(open_record(folder, name), folder, others)
        records.append(record)
    several = len(records) > 1
    page = compare_page(records, others) if several else build_page(records[0], others)
    written = output or (Path(PAGE) if several else folders[0] / PAGE)
    replace_file(written, render(page))
    return written


def render(page: Page) -> str:
    """A page as one HTML file that needs no network."""
    return environment().get_template("page.html").render(vars(page)).lstrip()
