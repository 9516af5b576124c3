"""Run a recipe's stages in order, each once: a killed build goes on after its last whole stage.

    output/
      bundle/        the result, for any ONNX client
      original/      the untouched model as a bundle of its own
      report.html, report.json
      stages/        what each stage wrote, under a key of all that it read (keys.py)

A stage writes into a folder aside that is renamed when it is whole; a failure leaves nothing. One
build at a time uses an output folder: it holds a lock there, which ends with its process.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.base.record import Record
from edgeprune.compress.context import Build
from edgeprune.measure.bench.protocol import peak_bytes
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.tasks import text_kind
from edgeprune.pipeline.checks import check
from edgeprune.pipeline.finish import Outcome, finish
from edgeprune.pipeline.keep import (
    LOCK,
    MARK,
    RECORD,
    _check_output,
    _forget_others,
    _locked,
    _made,
    _recorded,
    _sizes,
    _sweep,
)
from edgeprune.pipeline.keys import (
    assets_digest,
    code_digest,
    data_digest,
    digest,
    model_digest,
    processor_digest,
    reads,
)
from edgeprune.pipeline.recipe import Recipe, StageEntry, wanted_stages
from edgeprune.report.canvas import check_drawable
from edgeprune.targets import find
from edgeprune.text.corpus import read_corpus, text_line
from edgeprune.text.labels import label_names

_LONG = ("prune", "cut", "sparsify", "recover")
"""Stages that may train for hours."""


def prepare(recipe: Recipe, model: str | None, data: tuple[str, ...], output: Path | None) -> Build:
    """Check everything that can be checked before work begins.

    Raises:
        UserError: the model, the text or the output folder cannot be used.
    """
    for option, given in (("--model", model), *(("--data", source) for source in data)):
        if given is not None and not given.strip():
            raise UserError(
                f"{option} is empty, as a shell variable that is not set is: name one, or leave "
                f"{option} out to take the recipe's."
            )
    name = recipe.model if model is None else model
    if name is None:
        raise UserError(f"The recipe {recipe.name} names no model; give one with --model.")
    if data:
        recipe = recipe.model_copy(update={"text": recipe.text.model_copy(update={"data": data})})
    find(recipe.target)
    checkpoint = open_checkpoint(name)
    labels = label_names(checkpoint.config) if text_kind(checkpoint.task) == "labelled" else None
    text = recipe.text
    corpus = read_corpus(text.data, labels, text.group_field, text.fields, text.language)
    check(recipe, checkpoint, corpus)
    folder = output or Path("build") / recipe.name
    _check_output(folder)
    return Build(recipe, checkpoint, corpus, folder)


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
    check_drawable("build")
    with _made(build.output / MARK) as stages, _locked(stages / LOCK):
        _sweep(stages)
        say(f"[text] {text_line(build.corpus.facts(text_kind(build.checkpoint.task)))}")
        _run_stages(build, stages, fresh)
        return finish(build)


def _run_stages(build: Build, stages: Path, fresh: bool) -> None:
    source = build.checkpoint.folder
    key = _first_key(build)
    wanted = wanted_stages(build.recipe)
    looked = False
    for number, entry in enumerate(wanted, start=1):
        settings = getattr(build.recipe, entry.name, None)
        own = _own_key(entry, build, key)
        if entry.name == "export":
            build.folders["export_input"] = source
        folder = stages / f"{entry.name}-{own[:12]}"
        say(f"[{number}/{len(wanted)}] {entry.name}")
        recorded = None if fresh else _recorded(folder)
        if recorded is None and entry.name in _LONG and not looked:
            _look_ahead(build)
            looked = True
        result = recorded or _run_stage(entry, build, source, folder, settings)
        build.results[entry.name] = result
        build.folders[entry.name] = folder
        if entry.name not in ("original", "measure"):
            source, key = folder, own
        _forget_others(stages, entry.name, folder)


def _look_ahead(build: Build) -> None:
    """Refuse before the training what quantizing would refuse after it."""
    settings = build.recipe.quantize
    if settings is not None and settings.weights != "none":
        from edgeprune.compress.quantize.outlook import look
        from edgeprune.model.store import load_model

        say("      looking at activations first")
        look(build, load_model(build.reference))


def _first_key(build: Build) -> str:
    """What every stage's result depends on: the model, its tokenizer and the text."""
    inputs = (
        model_digest(build.checkpoint),
        assets_digest(build.checkpoint.folder),
        build.corpus.digest,
    )
    # The texts themselves are in the corpus' digest: where they lie does not matter.
    return digest(*inputs, build.recipe.text.model_dump(exclude={"data"}))


def _own_key(entry: StageEntry, build: Build, before: str) -> str:
    """The key of one stage.

    Args:
        before: the key of the stage whose model it goes on with.
    """
    recipe = build.recipe
    parts = [before, entry.name, getattr(recipe, entry.name, None), build.seed]
    parts.append(code_digest(entry.function))
    if reads(entry.function).targets:
        parts.append(find(recipe.target).name)
    if entry.name == "vocabulary" and recipe.vocabulary and recipe.vocabulary.data:
        parts.append(read_corpus(recipe.vocabulary.data).digest)
    if entry.name == "measure":
        parts += [build.folders["original"].name, processor_digest()]
        parts += [data_digest(Path(recipe.measure.data))] if recipe.measure.data else []
    return digest(*parts)


def _run_stage(
    entry: StageEntry, build: Build, source: Path, folder: Path, settings: Any
) -> dict[str, Any]:
    aside = folder.parent / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    started = time.monotonic()
    try:
        with telling_of_a_full_disk(build.output):
            did = entry.load()(build, source, aside, settings)
            result = did.to_json() if isinstance(did, Record) else dict(did)
            result["seconds"] = round(time.monotonic() - started, 2)
            result["peak_megabytes"] = round(peak_bytes() / 1e6)
            record = {**result, "files": _sizes(aside)}
            (aside / RECORD).write_text(json.dumps(record, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    say(f"      {result['seconds']:.0f} s")
    return result
