"""A device's run in one small file, to be shown beside others: `benchmarks/devices/`.

It holds what tells devices and bundles apart, and what was measured; no path, host or user.
"""

from collections.abc import Mapping
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.base.record import Record
from edgeprune.measure.bench.record import (
    Machine,
    Speed,
    Sustained,
    Timed,
    UsedSettings,
)
from edgeprune.measure.works import Work
from edgeprune.runtime.bundle import Bundle

FORMAT = 1


class Submission(Record):
    """One run on one device."""

    format: int = FORMAT
    machine: Machine
    recipe: str | None
    model: str | None
    """The source model's hash, from the bundle's manifest."""
    graph: str | None
    settings: UsedSettings
    measures: Mapping[Work, Timed]
    model_bytes: int | None
    peak_memory_bytes: int | None
    sustained: Sustained | None = None


def submitted(place: str) -> Bundle:
    """The bundle of a run that is to be shown.

    Raises:
        UserError: no build made it, so that others could not have it.
    """
    bundle = Bundle.open(place)
    if not bundle.manifest.get("recipe"):
        raise UserError(
            f"{bundle.folder} is of no build of edgeprune: --submit-file is for bundles, so that "
            "others know what ran."
        )
    return bundle


def submission(result: Speed, bundle: Bundle) -> Submission:
    """The file's content: what was measured of a bundle that `submitted` has opened."""
    return Submission(
        format=FORMAT,
        machine=result.machine,
        recipe=bundle.manifest["recipe"].get("name"),
        model=(bundle.manifest.get("source") or {}).get("sha256"),
        graph=result.candidate.graph,
        settings=result.settings,
        measures=result.measures,
        model_bytes=result.candidate.model_bytes,
        peak_memory_bytes=result.candidate.peak_memory_bytes,
        sustained=result.sustained,
    )


def read_submission(file: Path) -> Submission:
    """A file that somebody sent.

    Raises:
        UserError: it is damaged, or of another format.
    """
    found = Submission.read(file, "ask its sender for another")
    if found.format != FORMAT:
        raise UserError(f"{file} has format {found.format}; this edgeprune reads {FORMAT}.")
    return found
