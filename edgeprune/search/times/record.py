"""The result of `edgeprune calibrate`: the tables that it kept."""

from typing import Any, Literal

from edgeprune.base.record import Many, Record
from edgeprune.targets.block_times import BlockTimes

Kind = Literal["formats", "break-even", "blocks"]
KINDS: tuple[Kind, ...] = ("formats", "break-even", "blocks")


class Kept(Record):
    """One table."""

    kind: Kind
    file: str
    points: int
    """Shapes of linears, or levels of blocks."""
    seconds: float


class Calibrated(Record):
    """All of them, and the machine whose times they hold."""

    target: str
    machine: dict[str, Any]
    kept: Many[Kept]
    blocks: BlockTimes | None = None
