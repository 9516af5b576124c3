"""Files: outputs refused before the work begins, or written whole; JSON read in one way."""

import json
import os
import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgeprune.base.errors import UserError


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
        UserError: its folder is missing, nothing may be written there, or something other than a
            regular file is there.
    """
    refuse_unwritable(file)
    real = _followed(file)
    if os.path.lexists(real) and not real.is_file():
        raise UserError(f"{file} is not a regular file, and would be replaced: name another.")
    if not os.access(real.parent, os.W_OK):
        raise UserError(
            f"{file} cannot be replaced, since nothing may be written in {real.parent}: name a "
            "file in a folder of yours."
        )


def replace_file(file: Path, text: str) -> None:
    """Write a text file, whole or not at all; a link is followed.

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


def link_or_copy(source: Path, target: Path) -> None:
    """Let `target` have the content of `source`, by a symbolic link where that may be made."""
    try:
        target.symlink_to(source)
    except OSError:  # a system that does not let every user make them
        shutil.copyfile(source, target)


def _followed(file: Path) -> Path:
    # Path.resolve raises where links lead in a circle.
    return Path(os.path.realpath(file))


def leaves_folder(location: str) -> bool:
    """True for a path, as written in a file, that would lead out of that file's folder.

    Both separators and drive letters count on every system: a bundle must not mean something
    else when it is copied to another one.
    """
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    return (
        not location
        or "\0" in location
        or posix.is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in posix.parts
        or ".." in windows.parts
    )


Schema = TypeVar("Schema", bound=BaseModel)


def check(schema: type[Schema], content: Any, file: Path, remedy: str) -> Schema:
    """JSON content as an object of a pydantic model.

    Args:
        remedy: the end of the refusal, which says what to do.

    Raises:
        UserError: the content does not fit; the sentence names the first place.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file} is damaged ({first_fault(error)}): {remedy}.") from None


def first_fault(error: ValidationError) -> str:
    """The path of the first invalid value, and what is wrong with it."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def load_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from None


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file is missing, is not JSON, or holds something else.
    """
    value = load_json(file)
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold a JSON object, not a {type(value).__name__}.")
    return value


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is no such file.

    Raises:
        UserError: the file is not JSON, or holds something else.
    """
    return read_json(file) if file.is_file() else {}
