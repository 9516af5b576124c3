"""The section on classes and languages, one by one."""

from edgeprune.report.breakdown import breakdowns
from edgeprune.report.records import BuildRecord
from edgeprune.report.sections.part import Section, Table

_SEEN = 12
"""Rows of a table that is always open."""


def breakdown(record: BuildRecord) -> Section:
    """Every class and every language before and after, those that lost most first; empty where
    there are none."""
    tables, items, nouns = [], [], []
    for each in (part for quality in record.quality for part in breakdowns(quality)):
        head, rows = each.rows()
        folded = f"All {len(rows)} {each.plural}: {each.words}" if len(rows) > _SEEN else ""
        tables.append(Table(head, rows, folded))
        items += each.told()
        nouns.append(f"{each.noun} by {each.noun}")
    title = " and ".join(dict.fromkeys(nouns)).capitalize()
    text = "Intervals are 95 %, paired where they are of a change." if tables else ""
    return Section("breakdown", title, tables=tables, text=text, items=items)
