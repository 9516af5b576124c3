"""Several graphs timed beside each other: one typical time each, of which ratios hold.

On another machine it is a program that answers in JSON, and needs no torch:

    python -m edgeprune.measure.bench.beside facts THREADS
    python -m edgeprune.measure.bench.beside time WORK SETTINGS FILE...

SETTINGS is the JSON of a BenchSettings, WORK a kind of work or "first", the first that the graphs
do.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.record import Many, Record
from edgeprune.measure.bench.graph_file import of_graph_file
from edgeprune.measure.bench.launches import time_launches
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.record import Machine
from edgeprune.measure.bench.rounds import Samples
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import polished
from edgeprune.measure.works import Work
from edgeprune.targets import detect, store

FIRST = "first"


class Where(Record):
    """A machine that times graphs."""

    target: str
    """The name of its kind of processor."""
    facts: dict[str, Any]
    """The facts that decide how long a product takes there, as targets/store.py has it."""


class Beside(Record):
    """Times of several graphs on one machine."""

    work: Work
    seconds: Many[float]
    """Of a call of each, in their order."""
    machine: Machine
    """As it was when it began."""


def here(threads: int) -> Where:
    """This machine."""
    return Where(target=detect().name, facts=store.facts(threads))


def time_beside(files: Sequence[Path], settings: BenchSettings, work: Work | None) -> Beside:
    """Time graphs beside each other on this machine.

    One thread's times are the processor's, which are the clock's where nothing else runs; those of
    several threads, whose processor times add up, are the clock's.

    Args:
        work: the kind of work; None: the first that they do.

    Raises:
        UserError: a graph cannot be run, or does not do that kind of work.
    """
    subjects, machine = [of_graph_file(file) for file in files], machine_facts()
    kinds = subjects[0].kinds
    work = work or kinds[0]
    if work not in kinds:
        raise UserError(f"This model's work is {' and '.join(kinds)}, not {work}.")
    launched = time_launches(subjects, [settings])
    turns = [_turns(each, settings.threads) for each in launched.points[0][work]]
    return Beside(work=work, seconds=tuple(polished(turns)), machine=machine)


def _turns(samples: Samples, threads: int) -> list[list[float]]:
    """[launches][turns]."""
    spent = samples.processor if threads == 1 else None
    return samples.turns if spent is None else spent


def main(words: Sequence[str]) -> None:
    """Answer on standard output."""
    asked, *given = words
    found: Record
    if asked == "facts":
        found = here(int(given[0]))
    else:
        kind, settings, *files = given
        work: Any = None if kind == FIRST else kind
        chosen = BenchSettings.model_validate_json(settings)
        found = time_beside(list(map(Path, files)), chosen, work)
    print(json.dumps(found.to_json()))


if __name__ == "__main__":
    main(sys.argv[1:])
