"""Count a bundle's ARM instructions without an ARM processor: counts, not times.

    python benchmarks/qemu/setup.py                                        # once
    python benchmarks/qemu/count.py BUNDLE --against ORIGINAL [--tokens 128] [--batch 1]

QEMU runs ONNX Runtime for ARM on this machine's processor and counts the instructions of one call,
by two processes that differ in the number of calls (edgeprune/measure/bench/counters.py). A count
tells neither how many cycles an instruction takes nor how long it waits for memory: it shows that
a change reaches ARM at all, and repeats to a few thousand instructions.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from setup import CPU, PACKAGES, PLUGIN, SYSROOT, arm_command

from edgeprune.measure.bench.counters import per_call
from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.resolve import resolve
from edgeprune.measure.bench.rounds import request
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import Subject

# Emulation is slow, and exact: a call warms up, and two are enough.
_FEW, _MORE = 1, 2
_WORKER = ("-P", "-m", "edgeprune.measure.bench.worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundle, a plain ONNX folder, or an ONNX file")
    parser.add_argument("--against", help="what to compare with")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    given = parser.parse_args()
    if not all(path.exists() for path in (SYSROOT, PACKAGES, PLUGIN)):
        parser.error("ARM Python is not here yet: run benchmarks/qemu/setup.py first")
    settings = BenchSettings(tokens=given.tokens, batch=given.batch)
    places = {"candidate": given.model} | ({"baseline": given.against} if given.against else {})
    result: dict[str, Any] = {
        "unit": "ARM instructions of one call, counted by QEMU: no times",
        "processor": CPU,
        "settings": {"tokens": settings.tokens, "batch": settings.batch},
        "counts": {},
    }
    with ExitStack() as stack:
        sides = {side: stack.enter_context(resolve(place)) for side, place in places.items()}
        for kind in sides["candidate"].kinds:
            result["counts"][kind] = {
                side: instructions(model, kind, settings) for side, model in sides.items()
            }
    Console(highlight=False).print(table(result, places))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def instructions(subject: Subject, kind: str, settings: BenchSettings, **processor: Any) -> int:
    """ARM instructions of one call (of decoding: one token).

    Args:
        processor: `cpu` and `sysroot`, as `arm_command` has them.

    Raises:
        UserError: the model does not run there.
    """

    def counted(calls: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "log"
            arm = replace(subject, command=tuple(arm_command(*_WORKER, log=log, **processor)))
            with Process(arm, settings, cores=None) as process:
                process.ask(kind, **request(kind, calls, settings))
            name, number = log.read_text().split()
            return {name: float(number)}

    return round(per_call(counted, _FEW, _MORE)["instructions"])


def table(result: dict[str, Any], places: dict[str, str]) -> Table:
    title = "ARM instructions of one call: counts, not times"
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("")
    for side in reversed(places):
        shown.add_column(f"{side}\n{places[side]}", justify="right", overflow="fold")
    if len(places) > 1:
        shown.add_column("fewer", justify="right")
    for kind, counts in result["counts"].items():
        cells = [f"{counts[side] / 1e6:,.1f} M" for side in reversed(places)]
        gain = [f"{counts['baseline'] / counts['candidate']:.2f}x"] if len(places) > 1 else []
        shown.add_row(kind, *cells, *gain)
    return shown


if __name__ == "__main__":
    main()
