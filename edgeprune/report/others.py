"""Other models beside a build: what `edgeprune bench` and `evaluate` wrote with --json.

A model's speed and quality come from two files, which belong together by the model's name.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.files import check
from edgeprune.report.records import Record, read_content
from edgeprune.report.schema import NamedEvaluation, Speed

_REMEDY = "measure it anew with --json"


@dataclass(frozen=True)
class Other:
    """One model by the name that it was measured by: benchmark results and quality measures."""

    name: str
    speeds: list[dict[str, Any]] = field(default_factory=list)
    qualities: list[dict[str, Any]] = field(default_factory=list)


def joined(record: Record, folder: Path, others: Iterable[Other]) -> tuple[Record, list[Other]]:
    """The record with what was measured of its own bundle later, and the others."""
    own = {(folder / "bundle").resolve(), folder.resolve()}
    mine = [other for other in others if Path(other.name).resolve() in own]
    later = replace(
        record,
        later_speeds=tuple(found for other in mine for found in other.speeds),
        later_quality=tuple(found for other in mine for found in other.qualities),
    )
    return later, [other for other in others if other not in mine]


def read_others(files: Iterable[Path]) -> list[Other]:
    """The models that result files speak of, in the order of their first mention.

    Raises:
        UserError: a file is missing, is not JSON, is damaged, or is neither of bench's nor of
            evaluate's.
    """
    found: dict[str, Other] = {}
    for file in files:
        content = read_content(file)
        if "values" in content and "bundle" in content:
            check(NamedEvaluation, content, file, _REMEDY)
            name = content["bundle"]
            found.setdefault(name, Other(name)).qualities.append(content)
        elif "measures" in content or "sweep" in content:
            points = content.get("sweep", [content])
            for point in points if isinstance(points, list) else [points]:
                check(Speed, point, file, _REMEDY)
                name = point["candidate"]["name"]
                found.setdefault(name, Other(name)).speeds.append(point)
        else:
            raise UserError(
                f"{file} is no result that a report can show: give what `edgeprune bench` or "
                "`edgeprune evaluate` wrote with --json."
            )
    return list(found.values())
