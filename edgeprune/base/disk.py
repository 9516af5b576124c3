"""A full disk, reported in one sentence that names it, whichever library ran into it."""

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
"""A disk with fewer free bytes than these counts as full."""


def disk_is_full(error: BaseException, *folders: Path) -> str | None:
    """A sentence about the full disk behind an error; None for any other error.

    Args:
        folders: where the work writes, beside the temporary folder. The first of them, when full,
            counts as the reason even of an error that does not say so.
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
    """Turn any error that a full disk causes, while a folder is written, into a sentence.

    Raises:
        UserError: the disk of the folder, or of the temporary folder, is full.
    """
    try:
        yield
    except Exception as error:
        if sentence := disk_is_full(error, folder):
            raise UserError(sentence) from error
        raise


def _number(error: BaseException) -> int | None:
    """The reason that an error states, by number or in the system's words, if any."""
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
    """Free bytes on the disk of a folder, or of its nearest existing parent."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    return shutil.disk_usage(there).free
