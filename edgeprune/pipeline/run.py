"""Run a recipe's stages in order, each once: a killed build goes on after its last whole stage.

    output/
      bundle/        the result, for any ONNX client
      original/      the untouched model as a bundle of its own
      report.html, report.json
      stages/        what each stage wrote, under a key of all that it read (keys.py)

A stage writes into a folder aside that is renamed when it is whole; a failure leaves nothing. One
build at a time uses an output folder: it holds a lock there, which ends with its process.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.base.cores import usable_cores
from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.progress import say, within
from edgeprune.base.words import duration, size
from edgeprune.compress.context import Context
from edgeprune.compress.stage import Stage, loaded
from edgeprune.measure.bench.protocol import peak_bytes
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.builds import Pace, built
from edgeprune.pipeline.builds import kept as kept_build
from edgeprune.pipeline.finish import Outcome, finish
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

if TYPE_CHECKING:
    from edgeprune.model.model import Model
from edgeprune.report.canvas import check_drawable


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
    with made(build.context.output / MARK) as folder, locked(folder / LOCK):
        sweep_stages(folder)
        say(f"[text] {build.context.text.line}")
        known = kept_build(build) or built(build.recipe)
        pace = Pace(known.stages if known else {})
        done = _run_stages(build.stages, build.context, folder, fresh, pace)
        return finish(build, done)


def _run_stages(
    stages: list[Stage], context: Context, place: Path, fresh: bool, pace: Pace
) -> dict[str, Done]:
    source, key = context.checkpoint.folder, first_key(context)
    context.through = partial(_through, context)
    looked = False
    done: dict[str, Done] = {}
    for number, stage in enumerate(stages, start=1):
        own = stage_key(stage, context, key)
        folder = place / f"{stage.name}-{own[:12]}"
        left = pace.left([each.name for each in stages[number - 1 :]])
        told = "" if left is None else f", about {duration(left)} left in all"
        say(f"[{number}/{len(stages)}] {stage.name}{told}")
        kept = None if fresh else recorded(folder, stage.record)
        if kept is None and stage.trains and not looked:
            _look_ahead(stages, context)
            looked = True
        if kept is None:
            with within(left):
                done[stage.name] = _run_stage(stage, context, source, folder)
            pace.took(stage.name, done[stage.name].seconds)
        else:
            done[stage.name] = kept
        context.results[stage.name] = done[stage.name].record
        context.folders[stage.name] = folder
        if stage.gives:
            source, key = folder, own
        if stage.gives in ("reference", "model"):
            context.given |= {stage.gives: folder, "model": folder}
        forget_others(place, stage.name, folder)
    return done


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


def _look_ahead(stages: list[Stage], context: Context) -> None:
    """Refuse before the training what a later stage would refuse after it."""
    for stage in stages:
        settings = context.settings.get(stage.name)
        if stage.look and stage.looks(settings):
            say("      looking at activations first")
            loaded(stage.look)(context, settings)


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
