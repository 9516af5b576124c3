"""Builds that are killed, again and again, and what they come to in the end.

A chain is one `edgeprune build` of a tiny model that is killed in every stage, each time at
another moment and by another signal, and each time started again; the last start is let run. After
every kill, what stands in the output folder as a bundle has to be a whole one: an earlier build's,
which half of the chains begin with, or that of this build. In the end the bundle has to be the one
that a build makes which nobody kills, and nothing that was left aside may still lie there.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgeprune.base.errors import UserError
from edgeprune.runtime.bundle import MANIFEST, Bundle
from trust.patience import Patience, ended

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "helpers"))

from tiny_builds import RECIPE, model_folder, recipe_file, text_file  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_ENDS = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15}, signal.SIGINT: {130, -2}}
"""Exit codes that a signal may lead to: Ctrl-C's own, or the system's."""
_WORK = 300.0
"""CPU seconds that a build may take: ten times what the longest here takes."""
_NEVER = {"stage": "nowhere", "kind": "files"}
# The same moments in each process: no file of Python's own is written, and one thread computes.
_SURROUNDINGS = {
    "OMP_NUM_THREADS": "1",
    "EDGEPRUNE_TRACEBACK": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
MIDDLE = ("prune", "cut", "recover", "quantize")
"""The stages that change a model."""
_TIMES_MET = {"cut": 2}
"""Kills of a chain in a stage, where it is not one: half of the recipes cut nothing."""
_TIMES = {"seconds", "peak_megabytes"}
_TRAINED = """  pattern: channels+heads
  sparsity: 0.5
  steps: 8
  updates: 3
  checks: 2
  precision: float32
"""
_WEIGHTS = RECIPE.replace("  head_sparsity: 0.5\n", "").replace("cut: {}\n", "")


@dataclass(frozen=True)
class Site:
    """A tiny model of a family and a recipe, by name."""

    family: str
    recipe: str


SITES = {
    "channels": Site("bert", RECIPE),
    "one-shot": Site("llama", _WEIGHTS.replace(_TRAINED, "  method: wanda\n  pattern: '2:4'\n")),
    "blocks": Site("classifier", _WEIGHTS.replace("channels+heads", "4x1")),
    "int4": Site("llama", RECIPE.replace("quantize: {", "quantize: {weights: int4, ")),
}


@dataclass
class Chain:
    """What became of one chain of kills."""

    kills: Counter[str] = field(default_factory=Counter)
    """By "stage signal"."""
    late: list[str] = field(default_factory=list)
    """Builds that ended before the moment came, and were not killed."""
    wrong: list[str] = field(default_factory=list)


class Place:
    """A folder with the site's model, text and recipe, and a build that nobody killed."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder = folder
        if not folder.is_dir():
            aside = folder.with_name(f".{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            model_folder(aside / "model", site.family)
            labelled = site.family.endswith("classifier")
            text_file(aside / ("text.jsonl" if labelled else "text.txt"))
            recipe_file(aside / "tiny.yaml", site.recipe)
            aside.rename(folder)
        (self.text,) = folder.glob("text.*")
        self._reference(folder / "earlier", _NEVER, "--set", "recover.steps=4")
        self._reference(folder / "whole", {"count": str(folder / "whole.json")})
        self.earlier, self.whole = essence(folder / "earlier"), essence(folder / "whole")
        self.counts: dict[str, int] = json.loads((folder / "whole.json").read_text())

    def _reference(self, output: Path, plan: dict[str, Any], *options: str) -> None:
        if not (output / "report.json").is_file():
            code, said = self.build(output, plan, *options)
            if code:
                raise RuntimeError(f"a build that nobody killed ends with {code}: {said}")

    def build(self, output: Path, plan: dict[str, Any], *options: str) -> tuple[int, str]:
        """The exit code of a build, and what it wrote on standard error."""
        given = ["--model", "model", "--data", self.text.name, "--output", str(output), *options]
        command = [sys.executable, str(HERE / "killed.py"), json.dumps(plan)]
        with tempfile.TemporaryFile("w+") as said:
            process = psutil.Popen(
                [*command, "build", "tiny.yaml", *given],
                cwd=self.folder,
                env=os.environ | _SURROUNDINGS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            lost = ended(process, work=_WORK)
            said.seek(0)
            return process.returncode, said.read() + (f"\nit was killed: {lost}" if lost else "")

    def stages(self) -> list[str]:
        """The stages of this build in their order, with what comes before and behind."""
        return list(dict.fromkeys(name.partition(" ")[0] for name in self.counts))


def essence(output: Path) -> dict[str, str]:
    """Digests of what a build's bundle is: its files, and what its manifest says but for times."""
    found = {}
    bundle = Bundle.open(output / "bundle")
    bundle.verify()
    for file in sorted(bundle.folder.rglob("*")):
        if file.is_file() and file.name not in (MANIFEST, "README.md"):  # a card shows times
            name = file.relative_to(bundle.folder).as_posix()
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest = {
        name: value
        for name, value in bundle.manifest.items()
        if name not in ("files", "variants", "stages")
    }
    stages = [each for each in bundle.manifest["stages"] if each["name"] != "measure"]
    told = json.dumps(_untimed({**manifest, "stages": stages}), sort_keys=True)
    return {**found, MANIFEST: hashlib.sha256(told.encode()).hexdigest()}


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _untimed(each) for name, each in value.items() if name not in _TIMES}
    return [_untimed(each) for each in value] if isinstance(value, list) else value


def run_chain(
    place: Place, number: int, seconds: float | None = None, only: Collection[str] = ()
) -> Chain:
    """One chain of kills; the same number always plans the same moments.

    Args:
        seconds: after them no other kill is begun.
        only: stages that are met; none named: all.
    """
    draw, chain = random.Random(number), Chain()
    end = None if seconds is None else time.monotonic() + seconds
    met = [stage for stage in place.stages() if not only or stage in only]
    with _output(place, number) as output:
        for index, stage in enumerate(each for each in met for _ in range(_TIMES_MET.get(each, 1))):
            if end is not None and time.monotonic() > end:
                break
            # Each stage meets every signal in turn, and both kinds of moments.
            which = SIGNALS[(number + index) % len(SIGNALS)]
            kind = ("files", "calls")[(number // len(SIGNALS) + index) % 2]
            plan = {
                "stage": stage,
                "kind": kind,
                "number": draw.randint(1, place.counts[f"{stage} {kind}"]),
                "signal": int(which),
            }
            code, said = place.build(output, plan)
            where = f"{which.name} in {stage} at {kind} {plan['number']}"
            if code == 0:
                chain.late.append(where)
                for each in (output / "stages").iterdir():  # for the next stages to run at all
                    shutil.rmtree(each)
            else:
                chain.kills[f"{stage} {which.name}"] += 1
                if code not in _ENDS[which]:
                    chain.wrong.append(f"{where}: ended with {code}: {said[-600:]}")
            chain.wrong += [f"{where}: {fault}" for fault in faults(place, output, said)]
        code, said = place.build(output, _NEVER)
        if code:
            chain.wrong.append(f"the last start ends with {code}: {said[-600:]}")
        elif essence(output) != place.whole:
            chain.wrong.append(f"another result: {_apart(essence(output), place.whole)}")
        elif left := [file.name for file in output.rglob(".*")]:
            chain.wrong.append(f"left aside: {left}")
    return chain


@contextmanager
def _output(place: Place, number: int) -> Iterator[Path]:
    """An output folder for one chain; every other one holds another build's result."""
    output = place.folder / f"chain-{number}"
    shutil.rmtree(output, ignore_errors=True)
    if number % 2:
        shutil.copytree(place.folder / "earlier", output)
    yield output
    shutil.rmtree(output)


def faults(place: Place, output: Path, said: str) -> list[str]:
    """What is wrong with an output folder and a terminal after a kill."""
    found = []
    if "Traceback" in said or "this is a fault" in said:
        found.append(f"a traceback: {said[-1500:]}")
    for name in ("bundle", "original"):
        if (output / name).exists():
            try:
                Bundle.open(output / name).verify()
            except UserError as error:
                found.append(f"half a bundle: {error}")
    if not found and (output / "bundle").exists():
        there = essence(output)
        if there not in (place.whole, place.earlier):
            found.append(f"neither build's bundle: {_apart(there, place.whole)}")
    report = output / "report.json"
    if report.exists():
        try:
            json.loads(report.read_text(encoding="utf-8"))
        except ValueError as error:
            found.append(f"half a report: {error}")
    if left := _at_work(output):
        found.append(f"still at work: {left}")
    return found


def _at_work(output: Path) -> list[str]:
    """Processes that a killed build has left behind and that do not end by themselves."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(output) in word for word in process.info["cmdline"] or ())
        and process.pid != os.getpid()
    ]
    patience = [(process, Patience(process)) for process in found]
    while patience:
        patience = [(process, each) for process, each in patience if process.is_running()]
        if patience and all(each.lost() for _, each in patience):
            break
        time.sleep(0.1)
    return [" ".join(process.info["cmdline"]) for process, _ in patience]


def _apart(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def told(chain: Chain) -> dict[str, Any]:
    """A chain as a line of results."""
    wrong = [re.sub(r"/\S*/(?=chain-)", "", each) for each in chain.wrong]
    return {"kills": dict(chain.kills), "late": len(chain.late), "wrong": wrong}
