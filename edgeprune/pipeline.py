"""Run a recipe's stages in order, each once: a killed build goes on after its last whole stage.

    output/
      bundle/        the result, for any ONNX client
      original/      the untouched model as a bundle of its own
      report.html, report.json
      stages/        what each stage wrote, under a key of all that it read (keys.py)

A stage writes into a folder aside that is renamed when it is whole; a failure leaves nothing. One
build at a time uses an output folder: it holds a lock there, which ends with its process.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

from edgeprune.anatomy import max_positions
from edgeprune.bench.protocol import peak_bytes
from edgeprune.build import Build, text_kind
from edgeprune.bundle import Bundle, check_replaceable, sweep, write_bundle
from edgeprune.checkpoint import open_checkpoint
from edgeprune.checks import check
from edgeprune.disk import telling_of_a_full_disk
from edgeprune.errors import UserError
from edgeprune.kernels.formats import DOMAIN, is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.keys import (
    assets_digest,
    code_digest,
    data_digest,
    digest,
    model_digest,
    processor_digest,
    reads,
    versions,
)
from edgeprune.measure.requirements import missed
from edgeprune.places import called, without_places
from edgeprune.progress import say
from edgeprune.recipe import STAGES, Recipe, StageEntry
from edgeprune.report.canvas import check_drawable
from edgeprune.report.card import model_card
from edgeprune.report.write import write_report
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets import find
from edgeprune.text.corpus import read_corpus, text_line
from edgeprune.text.labels import label_names

MARK = "stages"
RECORD = "stage.json"
LOCK = ".lock"
_BUNDLES = ("bundle", "original")
_LONG = ("prune", "cut", "sparsify", "recover")
"""Stages that may train for hours."""
# Stages that run whatever the recipe says; the others run where it names them.
_ALWAYS = ("load", "original", "export", "rewrite", "measure")


@dataclass(frozen=True)
class Outcome:
    """What a build left behind."""

    bundle: Path
    original: Path
    report: Path
    results: dict[str, Any]
    missed: list[str]


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
        return _finish(build)


def _run_stages(build: Build, stages: Path, fresh: bool) -> None:
    source = build.checkpoint.folder
    key = _first_key(build)
    wanted = _wanted(build.recipe)
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
        from edgeprune.models import load_model
        from edgeprune.quantize.outlook import look

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
            result = dict(entry.load()(build, source, aside, settings))
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


def _recorded(folder: Path) -> dict[str, Any] | None:
    """What a stage did in an earlier build, if all that it wrote is still there, and as long."""
    try:
        result: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    files = result.pop("files", {})
    found = _sizes(folder)
    if damaged := [name for name, size in files.items() if found.get(name) != size]:
        say(f"      {damaged[0]} of an earlier build is damaged: run again")
        return None
    say("      kept from an earlier build")
    return result


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file that a stage wrote, but for its record."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in files
        if path != folder / RECORD
    }


def _finish(build: Build) -> Outcome:
    facts = _published_facts(build)
    stages = facts.pop("stages")
    assets = build.folders["rewrite"]
    shared = {
        "task": build.checkpoint.task,
        "max_length": max_positions(build.checkpoint.config),
    }
    manifest = {**shared, **facts, **_kernels(assets / "onnx" / "model.onnx"), "stages": stages}
    bundle = _write(build.output / "bundle", assets, manifest, model_card)
    about = {name: facts[name] for name in ("source", "made_with")}
    plain = {**shared, **about, "stages": [], "recipe": {"name": "original"}}
    original = _write(build.output / "original", build.folders["original"], plain)
    report = write_report(build.output, {**facts, "task": shared["task"], "stages": stages})
    return Outcome(
        bundle.folder,
        original.folder,
        report,
        build.results,
        missed(build.results["measure"], build.recipe.require),
    )


def _published_facts(build: Build) -> dict[str, Any]:
    """What manifest and report say of the build, without the places of this machine."""
    recipe = build.recipe
    libraries = {name for entry in _wanted(recipe) for name in reads(entry.function).libraries}
    more = recipe.vocabulary.data if recipe.vocabulary else ()
    named = (build.checkpoint.name, recipe.model, *recipe.text.data, *more, recipe.measure.data)
    facts = {
        "source": {
            "model": build.checkpoint.name,
            "sha256": model_digest(build.checkpoint),
        },
        "text": {
            **build.corpus.facts(text_kind(build.checkpoint.task)),
            "source": " and ".join(map(called, recipe.text.data)),
        },
        "recipe": recipe.model_dump(mode="json"),
        "target": find(recipe.target).to_json(),
        "made_with": versions(libraries),
        "stages": [{"name": name, **result} for name, result in build.results.items()],
    }
    return without_places(facts, build.output / MARK, [place for place in named if place])


def _kernels(model: Path) -> dict[str, Any]:
    """Which operators of edgeprune.kernels a file can use, and what it was measured with."""
    outline = read_outline(model)
    if DOMAIN not in outline.domains:
        return {}
    operators = {name: n for name, n in outline.operators.items() if is_operator(name)}
    return {
        "kernels": {"operators": operators, "measured_with": system_facts()["chosen"] or "none"}
    }


def _write(
    folder: Path,
    built: Path,
    manifest: dict[str, Any],
    card: Callable[[Bundle], str] | None = None,
) -> Bundle:
    assets = built.parent / f".assets-{built.name}"
    shutil.rmtree(assets, ignore_errors=True)
    try:
        with telling_of_a_full_disk(folder):
            shutil.copytree(built, assets, ignore=shutil.ignore_patterns("onnx", RECORD))
            return write_bundle(folder, built / "onnx", assets, manifest, card)
    finally:
        shutil.rmtree(assets, ignore_errors=True)


def _wanted(recipe: Recipe) -> list[StageEntry]:
    """The stages that run."""
    return [
        entry
        for entry in STAGES
        if entry.name in _ALWAYS or getattr(recipe, entry.name) is not None
    ]


def _check_output(folder: Path) -> None:
    """An output folder is new, empty, or an earlier build's."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(
            f"{folder} is a link to {folder.readlink()}, which is not there: make that folder, or "
            "give another --output."
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the output.")
    if folder.is_dir() and any(folder.iterdir()) and not _is_stages(folder / MARK):
        raise UserError(
            f"{folder} holds something that is no build of edgeprune; name another --output."
        )
    for part in _BUNDLES:
        check_replaceable(folder / part)


def _is_stages(folder: Path) -> bool:
    """Whether a folder holds what stages wrote, and nothing else: what is in it may be deleted."""
    names = "|".join(entry.name for entry in STAGES)
    known = re.compile(rf"{re.escape(LOCK)}|\.?(assets-)?({names})-[0-9a-f]{{12}}(\.\d+)?")
    return folder.is_dir() and all(known.fullmatch(found.name) for found in folder.iterdir())


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Make a folder for the length of the context; it stays, with its parents, if it is used."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # not empty: it was used
                each.rmdir()


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other builds out by a lock on a file, for the length of the context.

    A process that dies lets go of it. Systems and disks without such locks go without.

    Raises:
        UserError: another build holds the lock.
    """
    if fcntl is None:
        yield
        return
    lock = _lock(file)
    try:
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(lock)


def _lock(file: Path) -> int:
    """The descriptor of a file that is locked, and still the one of that name."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode()
            os.close(lock)
            raise UserError(
                f"Another build{f' (process {holder})' if holder else ''} is using "
                f"{file.parent.parent}: wait until it ends, or give another --output."
            ) from None
        except OSError:  # a disk without locks
            return lock
        # A build that ended meanwhile took the name away.
        if file.exists() and os.path.samestat(os.fstat(lock), file.stat()):
            return lock
        os.close(lock)


def _sweep(stages: Path) -> None:
    """Remove what builds that were killed left unfinished; nobody else is at work here."""
    for aside in stages.glob(".*"):
        if aside.name != LOCK:
            shutil.rmtree(aside, ignore_errors=True)
    for name in _BUNDLES:
        sweep(stages.parent / name)


def _forget_others(stages: Path, name: str, keep: Path) -> None:
    """Only the newest output of a stage is kept: models are large."""
    for folder in stages.glob(f"{name}-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
