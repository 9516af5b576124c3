"""Files that a command writes: refused before its work where they cannot be, and written whole."""

import os
from pathlib import Path

from edgeprune.errors import UserError


def refuse_unwritable(file: Path) -> None:
    """Refuse a file that could not be opened for writing.

    Raises:
        UserError: its folder is missing, or nothing may be written there.
    """
    real = _followed(file)
    if not real.parent.is_dir():
        raise UserError(f"There is no folder {real.parent} to write {file} in.")
    if not os.access(real if real.exists() else real.parent, os.W_OK):
        raise UserError(f"{file} may not be written: name a file in a folder of yours.")


def refuse_irreplaceable(file: Path) -> None:
    """Refuse a file that `replace_file` could not write.

    Raises:
        UserError: its folder is missing, nothing may be written there, or something stands there
            that is no regular file.
    """
    refuse_unwritable(file)
    real = _followed(file)
    if os.path.lexists(real) and not real.is_file():
        raise UserError(f"{file} is no regular file, which would be replaced: name another.")
    if not os.access(real.parent, os.W_OK):
        raise UserError(
            f"{file} cannot be replaced, since nothing may be written in {real.parent}: name a "
            "file in a folder of yours."
        )


def replace_file(file: Path, text: str) -> None:
    """Write a text file, whole or not at all; through a link, the file that it leads to.

    Raises:
        UserError: it cannot be replaced.
    """
    refuse_irreplaceable(file)
    real = _followed(file)
    aside = real.with_name(f".{real.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(real)
    finally:
        aside.unlink(missing_ok=True)


def _followed(file: Path) -> Path:
    # Path.resolve raises where links lead in a circle.
    return Path(os.path.realpath(file))
