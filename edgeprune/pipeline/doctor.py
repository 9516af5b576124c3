"""A look at this machine for `edgeprune doctor`: what is here, what is missing, what that costs.

Nothing is imported to find out whether it is installed, least of all torch.
"""

import os
import platform
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import ClassVar, Literal

from packaging.requirements import Requirement
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base import processor
from edgeprune.base.cores import all_cores, usable_cores
from edgeprune.base.disk import disk_is_full
from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.base.limits import usable_memory
from edgeprune.base.places import cache_folder
from edgeprune.base.record import Many, Record
from edgeprune.base.version import __version__
from edgeprune.base.words import listed, size
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.noise import LIMIT
from edgeprune.pipeline.builds import read
from edgeprune.targets import TARGETS, Target, detect

State = Literal["here", "worse", "missing"]
EXTRAS = {
    "build": "build, search and calibrate",
    "report": "a report's pictures",
    "service": "serve",
    "cluster": "search --workers and --cluster",
    "demo": "the recipes' own models and texts",
}
"""An extra of the package -> what needs it."""
_LIBRARIES = ("onnxruntime", "onnx", "numpy", "tokenizers", "torch", "transformers")
_LEAST_DISK = 2e9
"""Bytes below which a build may fail: one of 23 million weights keeps 0.65 GB, mostly stages."""


class Finding(Record):
    """One thing that was looked at."""

    writes_defaults: ClassVar[bool] = True

    part: str
    state: State
    found: str
    costs: str = ""
    """The loss by it; empty where nothing is lost."""
    do: str = ""
    """The remedy; empty where nothing can be done."""


class Examined(Record):
    """All that was looked at."""

    writes_defaults: ClassVar[bool] = True

    edgeprune: str
    target: str
    """The kind of processor that builds here are planned for."""
    findings: Many[Finding]

    def missed(self, needed: Sequence[str]) -> list[str]:
        """The missing parts of the extras that are needed, a sentence each."""
        return [
            f"{each.part} is not here ({each.found}): {each.do}"
            for each in self.findings
            if each.part in needed and each.state == "missing"
        ]


def examine() -> Examined:
    """Look at everything; it takes a second or two, which the processor's facts take."""
    target = detect()
    found = [
        _processor(target),
        _cores(),
        _load(),
        _memory(),
        _disk(),
        _versions(),
        _operators(),
        _times(target),
        *_extras(),
    ]
    return Examined(edgeprune=__version__, target=target.name, findings=tuple(found))


def doctor_table(examined: Examined) -> RenderableType:
    """A line for all that is here, then a few lines for whatever is missing or could be better."""
    seen = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for each in examined.findings:
        seen.add_row(each.part, each.state, each.found)
    lacking = [each for each in examined.findings if each.state != "here"]
    if not lacking:
        return Group(seen, Text(), Text("Nothing is missing."))
    parts: list[RenderableType] = [seen, Text()]
    for each in lacking:
        told = Table.grid(padding=(0, 2, 0, 0))
        told.add_row("  costs", each.costs)
        if each.do:
            told.add_row("  do", each.do)
        parts += [Text(each.part, style="bold"), told]
    return Group(*parts)


def _processor(target: Target) -> Finding:
    """The processor as targets see it: its instruction sets, and the kind that it is of."""
    facts = processor.processor()
    has, flags = processor.flags(), []
    for other in TARGETS:
        if other.architecture == target.architecture:
            flags += [flag for flag in other.flags if flag not in flags]
    here = [flag for flag in flags if {flag, flag.replace("avx512_", "avx512")} & has]
    gone = [flag for flag in flags if flag not in here]
    name = facts.get("brand_raw") or platform.processor() or "an unnamed processor"
    sets = f"has {listed(here) or 'none'}" + (f", not {listed(gone)}" if gone else "")
    finding = f"{name}, {platform.machine()}: target {target.name}, {sets}"
    better = next(each for each in TARGETS if each.architecture == target.architecture)
    if target == better:
        return Finding(part="processor", state="here", found=finding)
    bits = f"; INT8 weights get {target.weight_bits} bits" if target.weight_bits < 8 else ""
    return Finding(
        part="processor",
        state="worse",
        found=finding,
        costs=f"INT8 runs without the instructions of {better.name}{bits}",
    )


def _cores() -> Finding:
    usable, whole, governor = usable_cores(), all_cores(), machine_facts().governor
    text = f"{usable} of {whole} may be used"
    text += f", governor {governor}" if governor else ""
    if usable < whole:
        return Finding(
            part="cores",
            state="worse",
            found=text,
            costs="the other cores stand still: builds and sessions take so many threads",
            do="raise the container's limit or the affinity, where it is one",
        )
    if governor not in (None, "performance"):
        return Finding(
            part="cores",
            state="worse",
            found=text,
            costs="the clock follows the load, so that timings repeat less well",
            do="set the governor to performance while timing (cpupower frequency-set -g)",
        )
    return Finding(part="cores", state="here", found=text)


def _load() -> Finding:
    load = machine_facts().load_average
    if load is None:
        return Finding(part="load", state="here", found="not told by this system")
    share = load[0] / (os.cpu_count() or 1)
    text = f"{load[0]:.1f} over the last minute"
    if share <= LIMIT:
        return Finding(part="load", state="here", found=text)
    return Finding(
        part="load",
        state="worse",
        found=f"{text}: other programs are at work",
        costs="milliseconds repeat less well, and intervals are wider",
        do="time on a quiet machine; ratios stay paired, and say their interval",
    )


def _memory() -> Finding:
    """Memory beside what the recipes that ship took where they were measured."""
    usable = usable_memory()
    needs = {name: each.gigabytes for name, each in read().items()}
    beyond = [f"{name} ({need:.1f} GB)" for name, need in needs.items() if need * 2**30 > usable]
    text = f"{size(usable)} may be used"
    if not beyond:
        return Finding(part="memory", state="here", found=text)
    return Finding(
        part="memory",
        state="worse",
        found=text,
        costs=f"too little for a build as measured of {listed(beyond)}",
        do="build on a larger machine, and copy the bundle here",
    )


def _disk() -> Finding:
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:  # a system that is read-only, as a container's may be
        return Finding(
            part="disk",
            state="missing",
            found="no folder for temporary files may be written",
            costs="build, search, bench and check need one; run and serve do not",
            do=disk_is_full(error) or "name one by TMPDIR",
        )
    places = {"here": Path.cwd(), "temporary": temporary, "cache": cache_folder()}
    free = {}
    for name, place in places.items():
        there = next((each for each in (place, *place.parents) if each.exists()), place)
        free[name] = shutil.disk_usage(there).free
    text = ", ".join(f"{size(count)} free {name}" for name, count in free.items())
    full = [f"{places[name]}" for name, count in free.items() if count < _LEAST_DISK]
    if not full:
        return Finding(part="disk", state="here", found=text)
    return Finding(
        part="disk",
        state="worse",
        found=text,
        costs="a build may end with a full disk; what it has done is kept",
        do=f"make room in {listed(full)}, or name another place by --output, TMPDIR or "
        "EDGEPRUNE_CACHE",
    )


def _versions() -> Finding:
    known = {name: _version(name) for name in _LIBRARIES}
    parts = [f"edgeprune {__version__}", f"Python {platform.python_version()}"]
    parts += [f"{name} {found}" for name, found in known.items() if found]
    return Finding(part="versions", state="here", found=", ".join(parts))


def _operators() -> Finding:
    facts = system_facts()
    if facts["library"] is None:
        return Finding(
            part="operators",
            state="missing",
            found="the sparse operator library is not installed",
            costs="sparse linears multiply by their zeros too",
            do=facts["missing"],
        )
    if facts["chosen"] is None:
        return Finding(
            part="operators",
            state="missing",
            found=f"EDGEPRUNE_KERNELS={facts['wanted']} is not on this processor",
            costs="bundles with sparse linears do not run",
            do="unset EDGEPRUNE_KERNELS",
        )
    return Finding(
        part="operators", state="here", found=f"sparse operators run by {facts['chosen']}"
    )


def _times(target: Target) -> Finding:
    """The tables by which formats are chosen: this machine's own, those that ship, or none."""
    own, evidence = target.own_tables, target.format_times.evidence
    if own:
        return Finding(part="times", state="here", found=f"measured on this machine: {evidence}")
    if evidence != "unmeasured":
        return Finding(
            part="times",
            state="worse",
            found=f"another machine's: {evidence}",
            costs="formats are chosen by what was fast there",
            do="`edgeprune calibrate`, minutes on a quiet machine",
        )
    return Finding(
        part="times",
        state="missing",
        found=f"nothing was measured for {target.name}",
        costs="formats are chosen conservatively, and no speed is expected before a build",
        do="`edgeprune calibrate`, minutes on a quiet machine",
    )


def _extras() -> list[Finding]:
    """Each extra of the package: whether all that it brings is installed, in the versions asked."""
    try:
        asked = requires("edgeprune") or []
    except PackageNotFoundError:
        raise UserError(
            f"edgeprune is run from its files and not installed: {install()}."
        ) from None
    packages: dict[str, list[Requirement]] = defaultdict(list)
    for line in asked:
        requirement = Requirement(line)
        if extra := re.search(r"""extra == ['"](\w+)['"]""", str(requirement.marker or "")):
            packages[extra[1]].append(requirement)
    return [_extra(name, purpose, packages[name], _version) for name, purpose in EXTRAS.items()]


def _extra(
    name: str,
    purpose: str,
    packages: Sequence[Requirement],
    installed: Callable[[str], str | None],
) -> Finding:
    lacking = []
    for package in packages:
        found = installed(package.name)
        if found is None:
            lacking.append(f"no {package.name}")
        elif not package.specifier.contains(found, prereleases=True):
            lacking.append(f"{package.name} {found}, not {package.specifier}")
    if packages and not lacking:
        return Finding(part=name, state="here", found=f"for {purpose}")
    return Finding(
        part=name,
        state="missing",
        found=listed(lacking) or "the installed edgeprune has no such extra",
        costs=f"no {purpose}" if name in ("report", "demo") else f"{purpose} cannot run",
        do=install(name),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
