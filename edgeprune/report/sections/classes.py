"""The section on a classifier's classes, one by one."""

from edgeprune.report.classes import rows, told
from edgeprune.report.records import BuildRecord, data_name
from edgeprune.report.sections.part import Section, Table

_SEEN = 12
"""Classes of a table that is always open."""


def classes(record: BuildRecord) -> Section:
    """Every class before and after, those that lost most first; empty where there are none."""
    tables, items = [], []
    for quality in record.quality:
        if quality.classes:
            head, found = rows(quality)
            folded = f"All {len(found)} classes" if len(found) > _SEEN else ""
            tables.append(
                Table([f"{head[0]}, {data_name(quality.data)}", *head[1:]], found, folded)
            )
            items += told(quality)
    text = "Intervals are 95 %, paired where they are of a change." if tables else ""
    return Section("classes", "Class by class", tables=tables, text=text, items=items)
