"""Other models beside a build: what `edgeprune bench` and `evaluate` wrote with --json.

A model's speed and quality come from two files, which belong together by the model's name.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.record import Speed, read_speed
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.report.records import BuildRecord, read_content
from edgeprune.runtime.bundle import MANIFEST, graph_sha256

_REMEDY = "measure it again with --json"


@dataclass(frozen=True)
class Other:
    """One model by the name that it was measured by: benchmark results and quality measures."""

    name: str
    speeds: list[Speed] = field(default_factory=list)
    qualities: list[Evaluation] = field(default_factory=list)
    graph: str | None = None
    """The SHA-256 of its graph, where it was recorded."""


def joined(
    record: BuildRecord, folder: Path, others: Iterable[Other]
) -> tuple[BuildRecord, list[Other]]:
    """The record with what was measured of its own bundle later, and the others."""
    bundles = (folder / "bundle", folder)
    manifests = [place / MANIFEST for place in bundles]
    graphs = {graph_sha256(read_content(file)) for file in manifests if file.is_file()}
    places = {place.resolve() for place in bundles}
    own = [
        other
        for other in others
        if Path(other.name).resolve() in places or (other.graph and other.graph in graphs)
    ]
    later = replace(
        record,
        later_speeds=tuple(found for other in own for found in other.speeds),
        later_quality=tuple(found for other in own for found in other.qualities),
    )
    return later, [other for other in others if other not in own]


def read_others(files: Iterable[Path]) -> list[Other]:
    """The models that result files speak of, in the order of their first mention.

    Raises:
        UserError: a file is missing, is not JSON, is damaged, or is neither of bench's nor of
            evaluate's.
    """
    found: dict[str, Other] = {}
    for file in files:
        content = read_content(file)
        if "values" in content and content.get("bundle") is not None:
            quality = Evaluation.from_json(content, file, _REMEDY)
            name = str(quality.bundle)
            found.setdefault(name, Other(name, graph=quality.graph)).qualities.append(quality)
        elif "measures" in content or "sweep" in content:
            points = content.get("sweep", [content])
            for point in points if isinstance(points, list) else [points]:
                speed = read_speed(point, file, _REMEDY)
                name = speed.candidate.name
                found.setdefault(name, Other(name, graph=speed.candidate.graph)).speeds.append(
                    speed
                )
        else:
            raise UserError(
                f"{file} is not a result that a report can show: give what `edgeprune bench` or "
                "`edgeprune evaluate` wrote with --json."
            )
    return list(found.values())
