"""Run a recipe's stages in order, each once: a killed build goes on after its last whole stage.

    output/
      bundle/        the result, for any ONNX client
      original/      the untouched model as a bundle of its own
      report.html, report.json
      stages/        what each stage wrote, under a key of all that it read (keys.py)

A stage writes into a folder aside that is renamed when it is whole; a failure leaves nothing. One
build at a time uses an output folder: it holds a lock there, which ends with its process.

Several processes may share a build (joined.py): they train together, and the first alone does the
rest. It says which results are kept, and writes them; the others leave after the last training.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeprune.base.cores import usable_cores
from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say, within
from edgeprune.base.ranks import is_first, led, part
from edgeprune.base.words import duration, size
from edgeprune.compress.context import Context
from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.compress.stage import Stage, loaded
from edgeprune.measure.bench.protocol import peak_bytes
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.builds import Pace, built
from edgeprune.pipeline.builds import kept as kept_build
from edgeprune.pipeline.finish import Made, Outcome, finish
from edgeprune.pipeline.keep import (
    LOCK,
    MARK,
    Done,
    forget_others,
    locked,
    made,
    recorded,
    sweep_stages,
    write_record,
)
from edgeprune.pipeline.keys import (
    assets_digest,
    code_digest,
    digest,
    files_digest,
    model_digest,
    reads,
)
from edgeprune.pipeline.stages import STAGES
from edgeprune.report.canvas import check_drawable

if TYPE_CHECKING:
    from edgeprune.model.model import Model


def run(build: Build, fresh: bool = False) -> Outcome:
    """Run every stage that the recipe asks for, write bundle and report.

    Args:
        fresh: forget what earlier builds left in the output folder.

    Raises:
        UserError: another build is using the output folder, or a stage refuses its input.
    """
    # Read when torch is loaded. Threads that spin at barriers while a neighbour holds their core
    # made training ten times slower on a shared machine of two cores (6 s a step, not 0.6).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    check_drawable("build")
    with ExitStack() as held:
        folder = build.context.output / MARK
        led(_take, folder, held)
        say(f"[text] {build.context.text.line}")
        return finish(build, _run_variants(build, folder, fresh))


def _take(folder: Path, held: ExitStack) -> None:
    """Make the folder of the stages, and keep other builds out of it for as long as it is held."""
    held.enter_context(made(folder))
    held.enter_context(locked(folder / LOCK))
    sweep_stages(folder)


def _run_variants(build: Build, place: Path, fresh: bool) -> list[Made]:
    """Run the stages that all variants share, then each variant's own."""
    context, variants = build.context, build.variants
    branches = [variant.stages(context.streamed) for variant in variants]
    every = [stage.name for stages in (build.shared, *branches) for stage in stages]
    walk = _Walk(build, place, fresh, every)
    at = At(context.checkpoint.folder, _shared_key(context))
    at, shared = walk.along(build.shared, context, at)
    part()
    contexts = [context, *(variant.context(context) for variant in variants[1:])]
    made: list[Made] = []
    for variant, stages, own in zip(variants, branches, contexts, strict=True):
        note = f", {variant.name}" if len(variants) > 1 else ""
        _, done = walk.along(stages, own, at, note)
        made.append(Made(variant, own, {**({} if made else shared), **done}))
    walk.forget()
    return made


def _shared_key(context: Context) -> str:
    """`first_key`, which has to be every process's: each reads its share of the text itself.

    Raises:
        UserError: the first process has another.
    """
    own = first_key(context)
    if led(lambda: own) != own:
        raise UserError(
            "A process that trains with others has another model or text than the first: give all "
            "machines the same files."
        )
    return own


@dataclass(frozen=True)
class At:
    """The place at which a build goes on: the folder of the last output, and its key."""

    source: Path
    key: str


class _Walk:
    """The stages of a build, each taken from an earlier build or run."""

    def __init__(self, build: Build, place: Path, fresh: bool, names: Sequence[str]) -> None:
        """names: of all stages, in their order."""
        self._build, self._place, self._fresh, self._names = build, place, fresh, names
        self._number = 0
        known = kept_build(build) or built(build.recipe)
        self._pace = Pace(known.stages if known else {})
        self._looked = False
        self._kept: dict[str, list[Path]] = {}
        self._alone = len(build.variants) == 1

    def along(
        self, stages: Sequence[Stage], context: Context, at: At, note: str = ""
    ) -> tuple[At, dict[str, Done]]:
        """Go on through some stages; where that leads, and what they did.

        Args:
            note: what a line on the terminal says behind a stage's name.
        """
        context.through = partial(_through, context)
        done: dict[str, Done] = {}
        for stage in stages:
            own = led(stage_key, stage, context, at.key)
            folder = self._place / f"{stage.name}-{own[:12]}"
            left = self._pace.left(self._names[self._number :])
            self._number += 1
            told = "" if left is None else f", about {duration(left)} left in all"
            say(f"[{self._number}/{len(self._names)}] {stage.name}{note}{told}")
            kept = None if self._fresh else led(recorded, folder, stage.record)
            if kept is None and stage.trains and not self._looked:
                led(_look_ahead, self._build, context)
                self._looked = True
            if kept is None:
                with within(left):
                    done[stage.name] = _run_stage(stage, context, at.source, folder)
                self._pace.took(stage.name, done[stage.name].seconds)
            else:
                done[stage.name] = kept
            context.results[stage.name] = done[stage.name].record
            context.folders[stage.name] = folder
            if stage.gives:
                at = At(folder, own)
            if stage.gives in ("reference", "model"):
                context.given |= {stage.gives: folder, "model": folder}
            self._kept.setdefault(stage.name, []).append(folder)
            if is_first() and (self._alone or not stage.varies):
                forget_others(self._place, stage.name, self._kept[stage.name])
        return at, done

    def forget(self) -> None:
        """Remove what earlier builds left of the stages that ran here."""
        for name, folders in self._kept.items():
            forget_others(self._place, name, folders)


def _throughs(context: Context) -> list[Stage]:
    """The stages that say how a model runs after them, of those that run."""
    return [stage for stage in STAGES if stage.through and stage.name in context.settings]


@contextmanager
def _through(context: Context, model: "Model") -> Iterator[None]:
    with ExitStack() as within:
        for stage in _throughs(context):
            enter = loaded(stage.through or "")
            within.enter_context(enter(model, context, context.settings[stage.name]))
        yield


def _look_ahead(build: Build, context: Context) -> None:
    """Refuse before the training what a later stage would refuse after it."""
    seen = set()
    for variant in build.variants:
        own = variant.context(context)
        for stage in (*build.shared, *variant.stages(context.streamed)):
            settings = own.settings.get(stage.name)
            if stage.look and stage.looks(settings):
                asked = digest(stage.name, settings, own.target.name)
                if asked not in seen:
                    say("      looking at activations first")
                    loaded(stage.look)(own, settings)
                seen.add(asked)


def first_key(context: Context) -> str:
    """The key of what every stage's result depends on: the model, its tokenizer and the text."""
    checkpoint, text = context.checkpoint, context.text
    inputs = (model_digest(checkpoint), assets_digest(checkpoint.folder), text.digest)
    # The texts themselves are in the text's digest: where they lie does not matter.
    return digest(*inputs, text.settings.model_dump(exclude={"data"}))


def stage_key(stage: Stage, context: Context, before: str) -> str:
    """The key of one stage.

    Args:
        before: the key of the stage whose output it goes on with.
    """
    settings, task = context.settings.get(stage.name), TASKS[context.checkpoint.task]
    functions = (stage.run, *stage.asks(task))
    parts = [before, stage.name, settings, context.seed, code_digest(functions)]
    for later in _throughs(context) if stage.trains_through(settings) else ():
        own = later.through or ""
        parts += [context.settings[later.name], code_digest([own])]
        functions += (own,)
    if any(reads(function).targets for function in functions):
        parts += [context.target.name, files_digest(context.target.own_tables)]
    return digest(*parts, *stage.reads(settings, context))


def _run_stage(stage: Stage, context: Context, source: Path, folder: Path) -> Done:
    """Run a stage: the first process into its folder, the others only where models are trained
    together, and into nothing."""
    if not is_first() and isinstance(context.settings.get(stage.name), TrainSettings):
        with TemporaryDirectory() as nowhere:
            stage.load()(context, source, Path(nowhere), context.settings[stage.name])
    return led(_keep_stage, stage, context, source, folder)


def _keep_stage(stage: Stage, context: Context, source: Path, folder: Path) -> Done:
    aside = folder.parent / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    started = time.monotonic()
    try:
        with telling_of_a_full_disk(context.output):
            record = stage.load()(context, source, aside, context.settings.get(stage.name))
            seconds = round(time.monotonic() - started, 2)
            done = Done(record, seconds, round(peak_bytes() / 1e6))
            write_record(aside, done)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    say(f"      {seconds:.0f} s, up to {size(peak_bytes())} of memory so far")
    return done
