"""Instructions and cycles of one call, by the processor's own counters.

They hardly depend on what else the machine does, so they compare two models where times cannot.
`perf stat` counts a whole process, with its start and its loading; two processes that differ in
nothing but the number of calls are subtracted: ((N + k calls) - (N calls)) / k.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.record import Counts, Missing, SideName
from edgeprune.measure.bench.rounds import request
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import Subject
from edgeprune.measure.works import Work

# In user mode alone: the kernel's share belongs to the machine, and counting it may be forbidden.
EVENTS = {"instructions": "instructions:u", "cycles": "cycles:u"}
_FEW, _MORE = 3, 20
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


def why_missing() -> str | None:
    """Why nothing can be counted here; None where it can."""
    if shutil.which("perf") is None:
        return "perf is not installed"
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        found = Path(scratch) / "perf"
        tried = subprocess.run([*_perf(found), "true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            level = _PARANOID.read_text().strip() if _PARANOID.is_file() else "unknown"
            return f"perf may not count here (kernel.perf_event_paranoid is {level})"
        if not read_counts(found.read_text()):
            return (
                "this machine, perhaps a virtual one, offers no counters of instructions or cycles"
            )
    return None


def count(
    subject: Subject, kind: Work, settings: BenchSettings, cores: list[int] | None
) -> dict[str, float]:
    """The counts of one call of a kind of work: "instructions", "cycles", or what there is of them.

    With more threads than one, those that wait for work count as well.
    """
    return per_call(
        lambda calls: _whole_process(subject, kind, calls, settings, cores), _FEW, _MORE
    )


def per_call(counted: Callable[[int], dict[str, float]], few: int, more: int) -> dict[str, float]:
    """The counts that each of `more` calls adds to those of a process that makes `few`.

    Args:
        counted: from a number of calls to the counts of a whole process that makes them.
    """
    start, end = counted(few), counted(few + more)
    return {name: (end[name] - start[name]) / more for name in end if name in start}


def read_counts(text: str) -> dict[str, float]:
    """The counts in what `perf stat -x,` wrote, by their names in EVENTS.

    Processors with two kinds of cores have a line for each, which are summed.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        fields = line.split(",")
        for name in EVENTS:
            # Uncounted events say "<not supported>" or "<not counted>".
            if len(fields) > 2 and name in fields[2] and fields[0].isdigit():
                found[name] = found.get(name, 0.0) + float(fields[0])
    return found


def _whole_process(
    subject: Subject, kind: Work, calls: int, settings: BenchSettings, cores: list[int] | None
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        found = Path(scratch) / "perf"
        with Process(subject, settings, cores, under=_perf(found)) as process:
            process.ask(kind, **request(kind, calls, settings))
        return read_counts(found.read_text())


def _perf(output: Path) -> list[str]:
    # Python's start takes the same instructions each time only without its random hashes.
    perf = ["env", "PYTHONHASHSEED=0", "perf", "stat", "-x", ",", "-o", str(output)]
    return [*perf, "-e", ",".join(EVENTS.values()), "--"]


def counters(
    sides: Mapping[SideName, Subject],
    kinds: Sequence[Work],
    settings: BenchSettings,
    cores: list[int] | None,
) -> Counts | Missing:
    """Counts by kind of work and side, or why there are none."""
    if why := why_missing():
        return Missing(missing=why)
    return {
        kind: {side: count(model, kind, settings, cores) for side, model in sides.items()}
        for kind in kinds
    }
