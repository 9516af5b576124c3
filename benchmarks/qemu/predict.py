"""Predict times on a Raspberry Pi 4 and 5: `python benchmarks/qemu/predict.py BUNDLE...`

    python benchmarks/qemu/setup.py                   # once

Nothing is measured on a Pi here. QEMU counts the instructions of one call as each board's kind of
processor executes it: the Pi 5's Cortex-A76 by its server sibling, the Neoverse N1, which has the
same dot products; the Pi 4's Cortex-A72, which has none. The time follows from the clock and from
the instructions that a cycle ends, a range of which is assumed: 30 to 70 % of those that the
processor can decode in one (4 and 3). On x86, INT8 MiniLM was measured at 3.1 a cycle of a
processor that can dispatch 8. No call is faster than memory delivers the weights once, at the peak
rate of its data sheet at best and at half of that at worst. 1 thread is assumed.

One line of JSON a bundle in benchmarks/results/raspberry_pi.jsonl; and the table in Markdown.
"""

import argparse
import json
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from count import instructions
from setup import PACKAGES, PLUGIN, SYSROOT, try_out

from edgeprune.measure.bench.resolve import resolve
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.runtime.bundle import Bundle

RESULTS = Path(__file__).parents[1] / "results" / "raspberry_pi.jsonl"
USED = (0.7, 0.3)
"""Of the instructions that could be decoded, those that a cycle ends, at best and at worst."""


@dataclass(frozen=True)
class Board:
    """A board's processor: its name in QEMU, GHz, instructions decoded a cycle, whether it has dot
    products, and its memory's peak GB/s (from Arm's and Raspberry Pi's data sheets)."""

    name: str
    cpu: str
    gigahertz: float
    width: int
    dot: bool
    memory: float

    @property
    def sysroot(self) -> Path:
        """Debian for ARM whose /proc/cpuinfo tells of this processor."""
        if self.dot:
            return SYSROOT
        folder = SYSROOT.with_name(f"sysroot-{self.cpu}")
        if not folder.exists():
            subprocess.run(["cp", "-al", f"{SYSROOT}/.", folder], check=True)
            told = folder / "proc" / "cpuinfo"
            lines = told.read_text().replace("0xd0c", "0xd08").splitlines(keepends=True)
            told.unlink()  # a link to the other's
            few = "Features\t: fp asimd evtstrm crc32 cpuid\n"
            told.write_text("".join(few if "Features" in line else line for line in lines))
            try_out(cpu=self.cpu, sysroot=folder)
        return folder

    def milliseconds(self, millions: float, weights: int) -> tuple[float, float]:
        """A call's time at best and at worst, from its instructions and the weights' bytes."""
        best, worst = (millions / (self.gigahertz * self.width * used) for used in USED)
        reading = weights / (self.memory * 1e6)
        return max(best, reading), max(worst, 2 * reading)


BOARDS = (
    Board("Pi 5", "neoverse-n1", 2.4, 4, dot=True, memory=17.1),
    Board("Pi 4", "cortex-a72", 1.8, 3, dot=False, memory=12.8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args()
    if given.bundles and not all(path.exists() for path in (SYSROOT, PACKAGES, PLUGIN)):
        parser.error("ARM Python is not here yet: run benchmarks/qemu/setup.py first")
    RESULTS.parent.mkdir(exist_ok=True)
    for place in given.bundles:
        row = count(place, BenchSettings(tokens=given.tokens))
        with RESULTS.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
    print(table([json.loads(line) for line in RESULTS.read_text().splitlines()]))


def count(place: Path, settings: BenchSettings) -> dict[str, Any]:
    """Instructions of each kind of call on each board, in millions."""
    with ExitStack() as stack:
        subject = stack.enter_context(resolve(str(place)))
        counts = {
            board.name: {
                kind: instructions(subject, kind, settings, cpu=board.cpu, sysroot=board.sysroot)
                / 1e6
                for kind in subject.kinds
            }
            for board in BOARDS
        }
    parts = place.resolve().parts[-2:]
    size = Bundle.open(place).model_bytes
    tokens = settings.tokens
    return {"bundle": "/".join(parts), "bytes": size, "tokens": tokens, "millions": counts}


def table(rows: list[dict[str, Any]]) -> str:
    boards = [board.name for board in BOARDS]
    lines = [f"| bundle, {rows[0]['tokens']} tokens | call | {' | '.join(boards)} |"]
    lines.append("|---" * (2 + len(boards)) + "|")
    for row in rows:
        for kind in row["millions"][boards[0]]:
            cells = []
            for board in BOARDS:
                millions = row["millions"][board.name][kind]
                best, worst = board.milliseconds(millions, row["bytes"])
                cells.append(f"{millions:,.0f} M, {best:.0f} to {worst:.0f} ms")
            lines.append(f"| {row['bundle']} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
