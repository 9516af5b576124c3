"""The results of stages in an output folder: kept, locked, swept."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.base.record import Record
from edgeprune.pipeline.stages import STAGES
from edgeprune.runtime.bundle import check_replaceable, sweep

MARK = "stages"
RECORD = "stage.json"
LOCK = ".lock"
GRAPHS = ".graphs-"
"""The beginning of the name of a folder, beside the stages', in which graphs are put together."""
_BUNDLES = ("bundle", "original")


@dataclass(frozen=True)
class Done:
    """The record of a stage, its time and the build's peak of memory."""

    record: Record
    seconds: float
    peak_megabytes: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in one object."""
        took = {"seconds": self.seconds, "peak_megabytes": self.peak_megabytes}
        return {**self.record.to_json(), **took}


def write_record(folder: Path, done: Done) -> None:
    """Write a stage's record beside what it wrote, with the size of every file."""
    record = {**done.to_json(), "files": sizes(folder)}
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def recorded(folder: Path, kind: type[Record]) -> Done | None:
    """Read a stage's record of an earlier build; None if a file that it wrote is gone or changed
    size."""
    try:
        found = json.loads((folder / RECORD).read_text())
        done = Done(kind.model_validate(found), found["seconds"], found["peak_megabytes"])
        files = dict(found["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    there = sizes(folder)
    if damaged := [name for name, size in files.items() if there.get(name) != size]:
        say(f"      {damaged[0]} of an earlier build is damaged: run again")
        return None
    say("      kept from an earlier build")
    return done


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file that a stage wrote, but for its record."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in files
        if path != folder / RECORD
    }


def check_output(folder: Path) -> None:
    """An output folder is new, empty, or an earlier build's."""
    refuse_foreign(folder, "a build", _is_stages(folder / MARK))
    for part in _BUNDLES:
        check_replaceable(folder / part)


def refuse_foreign(folder: Path, of: str, ours: bool) -> None:
    """Refuse an output folder that is neither new nor empty nor ours.

    Args:
        of: what ours would be of, with its article.

    Raises:
        UserError: it is a file, a link to nowhere, or holds something else.
    """
    if folder.is_symlink() and not folder.exists():
        raise UserError(
            f"{folder} is a link to {folder.readlink()}, which is not there: make that folder, or "
            "give another --output."
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the output.")
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(
            f"{folder} holds something other than {of} of edgeprune: name another --output."
        )


def _is_stages(folder: Path) -> bool:
    """Whether a folder holds what stages wrote, and nothing else: what is in it may be deleted."""
    names = "|".join(entry.name for entry in STAGES)
    known = re.compile(rf"{re.escape(LOCK)}|\.?(assets-)?({names})-[0-9a-f]{{12}}(\.\d+)?")
    return folder.is_dir() and all(known.fullmatch(found.name) for found in folder.iterdir())


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
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
def locked(file: Path) -> Iterator[None]:
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


def sweep_stages(stages: Path) -> None:
    """Remove what builds that were killed left unfinished; nobody else is at work here."""
    for aside in stages.glob(".*"):
        if aside.name != LOCK:
            shutil.rmtree(aside, ignore_errors=True)
    for aside in stages.parent.glob(f"{GRAPHS}*"):
        shutil.rmtree(aside, ignore_errors=True)
    for name in _BUNDLES:
        sweep(stages.parent / name)


def forget_others(stages: Path, name: str, keep: Collection[Path]) -> None:
    """Only the newest outputs of a stage are kept: models are large."""
    for folder in stages.glob(f"{name}-*"):
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)
