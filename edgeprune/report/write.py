"""The pages: one build's report.html beside its report.json, or several builds' in one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.files import replace_file
from edgeprune.base.words import listed
from edgeprune.report import compare
from edgeprune.report.canvas import check_drawable
from edgeprune.report.layout import environment
from edgeprune.report.made import made
from edgeprune.report.others import Other, joined, read_others
from edgeprune.report.records import REPORT, BuildRecord, open_record
from edgeprune.report.sections.build import sections
from edgeprune.report.sections.part import Section
from edgeprune.report.story import Tile, requirements, tiles, verdict

PAGE = "report.html"


@dataclass(frozen=True)
class Page:
    """The content of a page, for the template."""

    title: str
    heading: str
    lead: Sequence[str]
    sections: Sequence[Section]
    tiles: Sequence[Tile] = ()
    verdict: str = ""
    """Whether it is what was required of it."""
    missed: bool = False
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
    text, recipe = record.content.get("text", {}), record.recipe.get("name")
    result, judged = made(record), requirements(record)
    lead = [result.sentence, f"Original: {record.model}, {record.task}"]
    if text:
        lead.append(f"Text: {text['documents']:,} texts of {text['source']}")
    if recipe:
        lead.append(f"Recipe: {recipe}")
    return Page(
        title=result.title,
        heading=result.title,
        lead=lead,
        tiles=tiles(record),
        sections=sections(record, others),
        verdict=verdict(judged),
        missed=not all(each.met for each in judged),
    )


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
