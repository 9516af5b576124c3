"""A disk that takes no more: told in one sentence that names it, whichever library met it."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeprune.base.errors import UserError

_REASONS = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "Your share of the disk is used up",
    errno.EFBIG: "A file would be larger than this process may write (see `ulimit -f`)",
}
_FULL = 1_000_000
"""Bytes that are left on a disk that is full."""


def disk_is_full(error: BaseException, *folders: Path) -> str | None:
    """A sentence on the disk that an error tells of; None where it tells of something else.

    Args:
        folders: where the work writes, besides the temporary folder. One that is full is the
            reason even of an error that does not say so.
    """
    if isinstance(error, OSError) and "No usable temporary" in str(error.strerror):
        return f"{error.strerror}: make room there, or name another folder by TMPDIR."
    full = [folder for folder in (*folders, *_temporary()) if _free(folder) < _FULL]
    number = _number(error)
    if number is None and not (folders and folders[0] in full):
        return None
    reason = _REASONS[errno.ENOSPC if number is None else number]
    named = getattr(error, "filename", None)
    places = [named] if named else full if number in (None, errno.ENOSPC) else folders
    return f"{reason}: {' and '.join(map(str, places)) or 'something'} could not be written."


@contextlib.contextmanager
def telling_of_a_full_disk(folder: Path) -> Iterator[None]:
    """Tell of the disk in whatever error a library makes of it while it writes into a folder.

    Raises:
        UserError: the folder's disk, or the temporary folder's, takes no more.
    """
    try:
        yield
    except Exception as error:
        if sentence := disk_is_full(error, folder):
            raise UserError(sentence) from error
        raise


def _number(error: BaseException) -> int | None:
    """Which of the reasons an error states, by its number or in the system's words."""
    if isinstance(error, OSError) and error.errno in _REASONS:
        return error.errno
    text = str(error)
    return next((number for number in _REASONS if os.strerror(number) in text), None)


def _temporary() -> list[Path]:
    """The temporary folder, where there is one."""
    try:
        return [Path(tempfile.gettempdir())]
    except OSError:
        return []


def _free(folder: Path) -> int:
    """Bytes that are left on the disk of a folder, or of what will hold it."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    return shutil.disk_usage(there).free
