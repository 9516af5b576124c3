"""Measure this machine's tables of times, and keep them for the planner and the search."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.search.times.break_even import measure_break_even
from edgeprune.search.times.formats import measure_formats
from edgeprune.search.times.measure import measure_blocks
from edgeprune.search.times.record import KINDS, Calibrated, Kept, Kind
from edgeprune.search.times.settings import BlockSettings
from edgeprune.targets import DENSE_TIMES, SPARSE_TIMES, detect
from edgeprune.targets.block_times import BlockTimes
from edgeprune.targets.table import keep_table


def calibrate(
    model: str | None, kinds: Collection[Kind], settings: BlockSettings, rounds: int
) -> Calibrated:
    """Measure tables on this machine and keep each as soon as it is whole.

    Args:
        model: whose blocks are timed; None: no blocks are.
        kinds: which tables; none named: all, as far as there is a model.
        rounds: times that every linear of formats and break-even is called.

    Raises:
        UserError: blocks are asked for and no model is named, or something cannot be measured.
    """
    if "blocks" in kinds and model is None:
        raise UserError("Times of blocks are a model's: name it with --model.")
    if model is not None and kinds and "blocks" not in kinds:
        raise UserError("--model is for times of blocks: leave it out, or ask for blocks too.")
    wanted = kinds or [kind for kind in KINDS if kind != "blocks" or model]
    target = detect()
    checkpoint = None if model is None else open_checkpoint(model)
    tables: list[BlockTimes] = []

    def formats() -> tuple[Path, int]:
        content = measure_formats(target, rounds)
        return keep_table(content, DENSE_TIMES), len(content["points"])

    def break_even() -> tuple[Path, int]:
        content = measure_break_even(target, rounds)
        return keep_table(content, SPARSE_TIMES), len(content["points"])

    def blocks() -> tuple[Path, int]:
        assert checkpoint is not None
        table = measure_blocks(checkpoint, settings, target)
        tables.append(table)
        return table.keep(), len(table.heads) + len(table.channels)

    measures: dict[Kind, Callable[[], tuple[Path, int]]] = {
        "formats": formats,
        "break-even": break_even,
        "blocks": blocks,
    }
    kept = []
    for kind in (kind for kind in KINDS if kind in wanted):
        started = time.monotonic()
        file, points = measures[kind]()
        seconds = round(time.monotonic() - started, 1)
        kept.append(Kept(kind=kind, file=str(file), points=points, seconds=seconds))
    return Calibrated(
        target=target.name,
        machine=machine_facts().to_json(),
        kept=tuple(kept),
        blocks=tables[0] if tables else None,
    )
