"""Short benchmarks, their tables, and the processes that they start."""

import io

import psutil
import pytest
from rich.console import Console

from edgeprune.measure.bench.record import Speed, Sweep
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.table import bench_table

QUICK = BenchSettings(
    tokens=16, decode_steps=4, launches=2, min_rounds=3, time_limit=0.6, turn_seconds=0.01
)


@pytest.fixture(autouse=True)
def _no_process_stays() -> object:
    before = {child.pid for child in children()}
    yield
    assert {child.pid for child in children()} <= before


def table_text(result: Speed | Sweep) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(bench_table(result))
    return out.getvalue()


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
