"""Run a recipe's stages in order, each once: a killed build goes on after its last whole stage.

    output/
      bundle/        the result, for any ONNX client
      original/      the untouched model as a bundle of its own
      report.html, report.json
      stages/        what each stage wrote, under a key of (input, settings, code)

A stage writes into a folder aside that is renamed when it is whole; a failure leaves nothing. One
build at a time uses an output folder: it holds a lock there, which ends with its process.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

import edgeprune
from edgeprune.anatomy import max_positions
from edgeprune.build import Build, text_kind
from edgeprune.bundle import Bundle, check_replaceable, sweep, write_bundle
from edgeprune.checkpoint import Checkpoint, open_checkpoint
from edgeprune.checks import check
from edgeprune.disk import telling_of_a_full_disk
from edgeprune.errors import UserError
from edgeprune.kernels.formats import DOMAIN, is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.measure.stage import missed
from edgeprune.progress import say
from edgeprune.recipe import STAGES, Recipe, StageEntry
from edgeprune.report.canvas import check_drawable
from edgeprune.report.card import model_card
from edgeprune.report.write import write_report
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets import find
from edgeprune.text.corpus import read_corpus

MARK = "stages"
RECORD = "stage.json"
LOCK = ".lock"
_BUNDLES = ("bundle", "original")
_NOT_CODE = ("cli.py", "gate", "report", "inspect", "runtime")
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
    labelled = text_kind(checkpoint.task) == "labelled"
    corpus = read_corpus(recipe.text.data, labelled, recipe.text.group_field)
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
        _run_stages(build, stages, fresh)
        return _finish(build)


def _run_stages(build: Build, stages: Path, fresh: bool) -> None:
    source = build.checkpoint.folder
    inputs = (_model_digest(build.checkpoint), _assets_digest(source), build.corpus.digest)
    # The texts themselves are in the corpus' digest: where they lie does not matter.
    key = _digest(*inputs, build.recipe.text.model_dump(exclude={"data"}))
    wanted = [entry for entry in STAGES if _wanted(entry, build.recipe)]
    for number, entry in enumerate(wanted, start=1):
        settings = getattr(build.recipe, entry.name, None)
        key = _digest(key, entry.name, settings, build.seed, build.recipe.target, _code_digest())
        if entry.name == "export":
            build.folders["export_input"] = source
        if entry.name == "vocabulary" and build.recipe.vocabulary and build.recipe.vocabulary.data:
            key = _digest(key, read_corpus(build.recipe.vocabulary.data).digest)
        if entry.name == "measure" and build.recipe.measure.data:
            key = _digest(key, _data_digest(Path(build.recipe.measure.data)))
        folder = stages / f"{entry.name}-{key[:12]}"
        say(f"[{number}/{len(wanted)}] {entry.name}")
        recorded = None if fresh else _recorded(folder)
        result = recorded or _run_stage(entry, build, source, folder, settings)
        build.results[entry.name] = result
        build.folders[entry.name] = folder
        if entry.name not in ("original", "measure"):
            source = folder
        _forget_others(stages, entry.name, folder)


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
            result["peak_megabytes"] = round(_peak_bytes() / 1e6)
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
    facts = {
        "source": {
            "model": build.checkpoint.name,
            "sha256": _model_digest(build.checkpoint),
        },
        "text": {
            "source": build.corpus.source,
            "documents": len(build.corpus.documents),
            "digest": build.corpus.digest,
        },
        "recipe": build.recipe.model_dump(mode="json"),
        "target": find(build.recipe.target).to_json(),
    }
    assets = build.folders["rewrite"]
    stages = [{"name": name, **result} for name, result in build.results.items()]
    task = build.checkpoint.task
    shared = {
        "task": task,
        "max_length": max_positions(build.checkpoint.config),
    }
    manifest = {**shared, **facts, **_kernels(assets / "onnx" / "model.onnx"), "stages": stages}
    bundle = _write(build.output / "bundle", assets, manifest, model_card)
    plain = {**shared, "source": facts["source"], "stages": [], "recipe": {"name": "original"}}
    original = _write(build.output / "original", build.folders["original"], plain)
    report = write_report(build.output, {**facts, "task": task, "stages": stages})
    return Outcome(
        bundle.folder,
        original.folder,
        report,
        build.results,
        missed(build.results["measure"], build.recipe.require),
    )


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


def _wanted(entry: StageEntry, recipe: Recipe) -> bool:
    return entry.name in _ALWAYS or getattr(recipe, entry.name) is not None


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


def _digest(*parts: Any) -> str:
    texts = [
        part.model_dump_json() if hasattr(part, "model_dump_json") else str(part) for part in parts
    ]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _assets_digest(folder: Path) -> str:
    """A hash of a model's tokenizer and settings: the small files beside its weights."""
    kinds = {".json", ".txt", ".model", ".jinja"}
    files = [file for file in folder.glob("*") if file.suffix in kinds]
    return _files_digest(sorted([*files, *folder.glob("*/config.json")]))


def _data_digest(path: Path) -> str:
    """A hash of the file, or of the folder's files, that a quality measure reads."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return _files_digest(sorted(files))


def _model_digest(checkpoint: Checkpoint) -> str:
    """A hash of the weights and of the configuration that they are read by."""
    config = json.dumps(checkpoint.config, sort_keys=True, default=str)
    return _digest(config, _files_digest(checkpoint.files))


def _files_digest(files: Iterable[Path]) -> str:
    """A hash of files' contents, in their order."""
    stats = [(file, file.stat()) for file in files]
    return _read_digest(tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats))


@functools.cache
def _read_digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    content = hashlib.sha256()
    for file, *_ in files:
        with file.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()


@functools.cache
def _code_digest() -> str:
    """A hash of the code that stages run, so that a changed method is never mistaken for its
    earlier self."""
    root = Path(edgeprune.__file__).parent
    content = hashlib.sha256(edgeprune.__version__.encode())
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in _NOT_CODE:
            content.update(file.read_bytes())
    return content.hexdigest()


def _peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
