"""Builds after any sequence of changes, kills, failures and damage: as if built at once.

A state machine changes one input after another, kills builds at any of their writes, damages what
they left, and builds again. After every build that ends:

- the bundle is, byte for byte, that of a fresh build of the same inputs;
- exactly those stages ran that a change, a kill or damage concerns, by the table READS.

Stages are real and tiny. Only timing, the card and the report's pictures are left out; in place of
its figures, measuring gives a digest of all that it would look at.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tiny_builds import model_folder, sentence_lines
from without_measuring import MEASURED, leave_out_measuring

from edgeprune.measure.record import Measured
from edgeprune.pipeline import keys
from edgeprune.pipeline.build import prepare
from edgeprune.pipeline.recipe import Recipe, read_recipe
from edgeprune.pipeline.run import run

CHAIN = (
    *("load", "vocabulary", "prune", "cut", "recover"),
    *("quantize", "export", "rewrite", "measure"),
)
"""Each stage goes on with what the one before it left."""
ASIDE = {"original": ("load",), "measure": ("original",)}
"""What a stage reads that its place in the chain does not say; the original feeds no other."""

RECIPE = """
name: {name}
seed: {seed}
target: {target}
text: {{max_tokens: {tokens}, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}}
vocabulary: {vocabulary}
prune:
  pattern: channels+heads
  sparsity: {sparsity}
  head_sparsity: 0.5
  steps: 3
  updates: 2
  checks: 1
  precision: float32
cut: {cut}
recover: {recover}
quantize: {{calibration_samples: 4, clip: {clip}}}
measure: {{tokens: 12, batch: {batch}, curve: [], stages: false, task: sts, data: {measured}}}
require: {{speedup: {speedup}}}
"""
OTHERS = {
    "name": ("one", "two"),
    "seed": (0, 1),
    "target": ("x86-avx512-vnni", "x86-avx2"),
    "tokens": (16, 12),
    "vocabulary": ("{}", "off", "{data: [%s]}"),
    "sparsity": (0.5, 0.25),
    "cut": ("{}", "{minimum_heads: 2}"),
    "recover": ("{steps: 2, checks: 1, precision: float32}", "off", "{steps: 3, checks: 1}"),
    "clip": ("absmax", "mse"),
    "batch": (1, 2),
    "speedup": ("null", 1.5),
}
"""What stands in the recipe, first and otherwise."""

READS: dict[str, set[str]] = {
    # the recipe
    "name": set(),
    "speedup": set(),
    "seed": {"load"},  # a seed is every stage's, as a version is
    "tokens": {"load"},  # and so is the text
    "vocabulary": {"vocabulary"},
    "sparsity": {"prune"},
    "cut": {"cut"},
    "recover": {"recover"},
    "clip": {"quantize"},
    "target": {"quantize", "rewrite", "measure"},
    "batch": {"measure"},
    # files
    "text": {"load"},
    "place": set(),  # where the text lies
    "weights": {"load"},
    "activation": {"load"},
    "words": {"load"},  # the tokenizer's
    "pooling": {"load"},
    "more text": {"vocabulary"},  # where the recipe names it
    "measured": {"measure"},
    # code and tables
    "base code": {"load"},
    "recovery's code": {"recover"},
    "service's code": set(),
    "tables": {"quantize", "rewrite", "measure"},
}
"""Each thing that changes, and which stages read it themselves."""

CODE = {
    "base code": "model/checkpoint.py",
    "recovery's code": "compress/recover/stage.py",
    "service's code": "service/app.py",
    "tables": "targets/tables/x86-avx512-vnni.json",
}
THINGS = tuple(READS)


@dataclass
class Site:
    """A folder with everything that a build reads, as `state` has it: thing -> which variant."""

    folder: Path
    state: dict[str, int]

    @classmethod
    def made(cls, folder: Path) -> "Site":
        model_folder(folder / "model", pieces=True)
        shutil.copytree(folder / "model", folder / "whole")
        shutil.copytree(
            keys.ROOT, folder / "edgeprune", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copytree(folder / "edgeprune", folder / "as it was")
        site = cls(folder, dict.fromkeys(THINGS, 0))
        for thing in THINGS:
            site.set(thing, 0)
        return site

    def set(self, thing: str, variant: int) -> None:
        """Let `thing` be in one of its variants; of files, write it."""
        self.state[thing] = variant
        model, whole, lines = self.folder / "model", self.folder / "whole", sentence_lines(40)
        if thing in CODE:
            content = (self.folder / "as it was" / CODE[thing]).read_text()
            (self.folder / "edgeprune" / CODE[thing]).write_text(content + " \n" * variant)
            forget_code()
        elif thing == "text":
            (self.folder / "text.txt").write_text("\n".join(lines[variant:]))
            shutil.copyfile(self.folder / "text.txt", self.folder / "moved.txt")
        elif thing == "more text":
            (self.folder / "more.txt").write_text("\n".join(sentence_lines(5, 7 + variant)))
        elif thing == "measured":
            rows = [f"{one},{lines[0]},{place + variant}" for place, one in enumerate(lines)]
            (self.folder / "sts.csv").write_text("\n".join(["text,text_pair,score", *rows]))
        elif thing == "weights":
            content = bytearray((whole / "model.safetensors").read_bytes())
            content[-4:] = np.float32(0.5 + variant).tobytes()
            (model / "model.safetensors").write_bytes(content)
        elif thing == "activation":
            content = json.loads((whole / "config.json").read_text())
            content["hidden_act"] = ("gelu", "relu")[variant]
            (model / "config.json").write_text(json.dumps(content))
        elif thing == "words":
            content = (whole / "tokenizer.json").read_text(encoding="utf-8")
            if variant:
                content = content.replace('"w010"', '"w0 0"')
            (model / "tokenizer.json").write_text(content, encoding="utf-8")
        elif thing == "pooling":
            modules = [
                {"path": place, "type": f"sentence_transformers.models.{kind}"}
                for place, kind in (("", "Transformer"), ("1_Pooling", "Pooling"))
            ]
            (model / "modules.json").write_text(json.dumps(modules))
            (model / "1_Pooling").mkdir(exist_ok=True)
            mode = ("pooling_mode_mean_tokens", "pooling_mode_cls_token")[variant]
            (model / "1_Pooling" / "config.json").write_text(json.dumps({mode: True}))

    def recipe(self) -> Recipe:
        """The recipe as it stands."""
        given = {name: values[self.state[name]] for name, values in OTHERS.items()}
        more, measured = str(self.folder / "more.txt"), str(self.folder / "sts.csv")
        given["vocabulary"] = given["vocabulary"].replace("%s", more)
        file = self.folder / "recipe.yaml"
        file.write_text(RECIPE.format(**given, measured=measured))
        return read_recipe(str(file))

    def build(self, output: Path) -> None:
        """Build all of it into a folder."""
        text = self.folder / ("text.txt", "moved.txt")[self.state["place"]]
        run(prepare(self.recipe(), str(self.folder / "model"), (str(text),), output))

    def inputs(self) -> dict[str, Any]:
        """Stage -> all that its result follows from; of the stages that run."""
        recipe = self.recipe()
        wanted = [s for s in CHAIN if s not in ("vocabulary", "recover") or getattr(recipe, s)]
        read = {}
        for stage in ("original", *wanted):
            before = wanted[: wanted.index(stage)] if stage in wanted else []
            behind = {stage, *before, *ASIDE.get(stage, ())}
            things = {thing for thing, readers in READS.items() if readers & behind}
            if not (recipe.vocabulary and recipe.vocabulary.data):
                things.discard("more text")
            read[stage] = (
                tuple(sorted((thing, self.state[thing]) for thing in things)),
                tuple(each for each in wanted if each in behind),
            )
        return read


def forget_code() -> None:
    """A process that builds twice would not look again at code that changed meanwhile."""
    for remembered in (keys.reads, keys._file, keys._imports):
        remembered.cache_clear()


@dataclass
class Left:
    """What a stage left: its folder's name, and when its record was written."""

    folder: str
    written: int


def left_in(output: Path) -> dict[str, Left]:
    """Of each stage that is whole."""
    found = {}
    whole = sorted((output / "stages").glob("[!.]*-*/stage.json"))
    for record in whole:
        name = record.parent.name.rpartition("-")[0]
        assert name not in found, f"two outputs of {name}"
        found[name] = Left(record.parent.name, record.stat().st_mtime_ns)
    return found


def published(output: Path) -> dict[str, str]:
    """File -> digest, of what a build publishes; of manifests, without times and memory."""
    found = {}
    for part in ("bundle", "original"):
        for file in sorted((output / part).rglob("*")):
            if file.is_file():
                content = file.read_bytes()
                if file.name == "edgeprune.json":
                    content = json.dumps(_untimed(json.loads(content))).encode()
                name = str(file.relative_to(output))
                found[name] = hashlib.sha256(content).hexdigest()
    return found


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        passing = ("seconds", "peak_megabytes", "name" if "sha256" not in content else "")
        return {key: _untimed(each) for key, each in content.items() if key not in passing}
    return [_untimed(each) for each in content] if isinstance(content, list) else content


def digest_of_what_is_measured(build: Any, source: Path, target: Path, settings: Any) -> Measured:
    """In place of measuring: an old build's record, with a hash of what would be measured."""
    seen = hashlib.sha256(settings.model_dump_json(exclude={"data"}).encode())
    files = [source, build.folders["original"]]
    for file in [file for folder in files for file in sorted((folder / "onnx").iterdir())]:
        seen.update(file.read_bytes())
    seen.update(Path(settings.data).read_bytes())
    (target / "measured.txt").write_text(seen.hexdigest())
    quality = MEASURED.quality[0].model_copy(update={"data": seen.hexdigest()})
    return MEASURED.model_copy(update={"quality": (quality,)})


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch):
    leave_out_measuring(monkeypatch, digest_of_what_is_measured)


@pytest.fixture
def machine(tmp_path_factory, monkeypatch) -> Iterator[type]:
    """The machine, on one site whose fresh builds are built once."""
    folder = tmp_path_factory.mktemp("site")
    site = Site.made(folder)
    monkeypatch.setattr(keys, "ROOT", folder / "edgeprune")
    forget_code()
    fresh: dict[str, dict[str, str]] = {}
    yield type("Here", (Builds,), {"site": site, "fresh": fresh})
    forget_code()


class Builds(RuleBasedStateMachine):
    """One output folder, and what each stage in it was made of."""

    site: Site
    fresh: dict[str, dict[str, str]]

    @initialize()
    def start(self) -> None:
        for thing in THINGS:
            if self.site.state[thing]:
                self.site.set(thing, 0)
        self.output = Path(tempfile.mkdtemp(dir=self.site.folder)) / "out"
        self.made: dict[str, Any] = {}

    @rule(thing=st.sampled_from(THINGS), by=st.integers(1, 2))
    def change(self, thing: str, by: int = 1) -> None:
        count = len(OTHERS.get(thing, "ab"))
        self.site.set(thing, (self.site.state[thing] + by) % count)

    @rule()
    def build(self) -> None:
        self.run_what_is_due()
        assert published(self.output) == self._fresh(self.site.inputs())

    def run_what_is_due(self) -> None:
        before, inputs = left_in(self.output), self.site.inputs()
        self.site.build(self.output)
        after = left_in(self.output)
        ran = {stage for stage in inputs if before.get(stage) != after[stage]}
        assert ran == {stage for stage in inputs if self.made.get(stage) != inputs[stage]}
        self.made |= inputs

    def _fresh(self, inputs: dict[str, Any]) -> dict[str, str]:
        key = str((inputs, self.site.state["place"], self.site.state["speedup"]))
        if key not in self.fresh:
            place = Path(tempfile.mkdtemp(dir=self.site.folder)) / self.output.name
            self.site.build(place)
            self.fresh[key] = published(place)
            shutil.rmtree(place.parent)
        return self.fresh[key]

    @rule(write=st.integers(1, 160), how=st.sampled_from(["kill", "full disk"]))
    def interrupt(self, write: int, how: str) -> None:
        """A build in a process of its own that ends, one way or the other, at one of its writes."""
        before, inputs = left_in(self.output), self.site.inputs()
        ended = in_a_fork(lambda: self.site.build(self.output), self.output, write, how)
        after = left_in(self.output)
        expected = {stage for stage in inputs if self.made.get(stage) != inputs[stage]}
        ran = {stage for stage, found in after.items() if before.get(stage) != found}
        assert ran <= expected
        if ended == 0:
            assert ran == expected
        elif how == "full disk":  # nothing half is left
            assert not list((self.output / "stages").glob(".*"))
        self.made = {
            stage: inputs[stage] if stage in ran else made
            for stage, made in ({**self.made, **inputs}).items()
            if stage in ran or (stage in after and stage in self.made)
        }

    @rule(stage=st.sampled_from(CHAIN), file=st.integers(0, 99), how=st.sampled_from("dt"))
    def damage(self, stage: str, file: int, how: str) -> None:
        """A file of a stage is deleted or cut off."""
        for folder in (self.output / "stages").glob(f"{stage}-*"):
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if files:
                self.made.pop(stage, None)
                _damage(files[file % len(files)], how)

    @rule(part=st.sampled_from(["bundle", "original"]), how=st.sampled_from(["d", "t", "all"]))
    def damage_what_is_published(self, part: str, how: str) -> None:
        """Which no stage reads."""
        if how == "all":
            shutil.rmtree(self.output / part, ignore_errors=True)
        elif (graph := self.output / part / "onnx" / "model.onnx").exists():
            _damage(graph, how)

    def teardown(self) -> None:
        if hasattr(self, "output"):
            shutil.rmtree(self.output.parent)


def _damage(file: Path, how: str) -> None:
    if how == "d" or not file.stat().st_size:
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)


def in_a_fork(build: Callable[[], None], output: Path, write: int, how: str) -> int:
    """Run it in a forked process that ends, or is refused, at the so manieth write below `output`.

    Returns its exit code: 0 if it came to its end before.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.alarm(300)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _end_at(output, write, how)
        build()
        code = 0
    finally:
        os._exit(code)


_MAKES = ("os.mkdir", "os.rename", "shutil.copyfile", "shutil.copytree")


def _end_at(output: Path, write: int, how: str) -> None:
    """For good: there is no way to take an audit hook back."""
    left, place = [write], str(output)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        writes = event in _MAKES or (event == "open" and bool(set(str(given[1])) & set("wax+")))
        if not writes or not any(str(each).startswith(place) for each in given):
            return
        left[0] -= 1
        if left[0] == 0 and how == "kill":
            os._exit(9)
        elif left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(hook)


def explore(machine: type, examples: int, steps: int, derandomize: bool) -> None:
    """Try sequences. None is made shorter: each of their builds takes its time."""
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_each_change_runs_what_reads_it(machine):
    """One after the other in one folder, what few stages read first."""
    builds = machine()
    builds.start()
    builds.change("vocabulary", 2)  # to a recipe that names further text
    builds.run_what_is_due()
    for thing in sorted(THINGS, key=lambda each: -min(map(CHAIN.index, READS[each]), default=99)):
        builds.change(thing)
        builds.run_what_is_due()
    builds.build()
    builds.teardown()


def test_a_few_sequences(machine):
    explore(machine, examples=2, steps=8, derandomize=True)


@pytest.mark.slow
def test_many_sequences(machine):
    explore(machine, examples=40, steps=20, derandomize=False)
