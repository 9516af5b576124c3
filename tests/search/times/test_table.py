"""Kept tables of times, for people."""

import io

from rich.console import Console

from edgeprune.search.times.record import Calibrated, Kept
from edgeprune.search.times.table import calibrated_table
from edgeprune.targets.block_times import BlockTimes, Level


def test_files_and_times_are_shown():
    levels = (Level(count=1, us=0.0), Level(count=12, us=614.0))
    blocks = BlockTimes(
        model="m",
        format="int8",
        work="encoder",
        tokens=128,
        batch=1,
        threads=1,
        rest=107.0,
        layer=219.0,
        heads=levels,
        channels=(*levels[:1], Level(count=1536, us=587.0)),
        layers=6,
        whole=8627.0,
        error=0.012,
        machine={},
    )
    kept = Kept(kind="blocks", file="/cache/[x].json", points=4, seconds=61.0)
    result = Calibrated(target="t", machine={}, kept=(kept,), blocks=blocks)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(calibrated_table(result))
    text = console.export_text()
    for part in ("/cache/[x].json", "61 s", "1,536", "614", "8.63 ms", "107 us", "219 us", "1.2%"):
        assert part in text
