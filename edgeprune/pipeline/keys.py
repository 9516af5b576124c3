"""The keys of kept stages: one is taken again only where its key is the same.

A key follows from what is read: the input and the settings, the code that the stage imports, the
tables that lie beside that code, the versions of the libraries, the target that the formats are
for with this machine's own tables of it, and, of what is timed, the processor.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.machine import COMPARABLE, machine_facts
from edgeprune.model.checkpoint import Checkpoint

ROOT = Path(__file__).parents[1]
_CODE = {".py", ".pyc"}
_COMPILED = {".so", ".dylib", ".dll"}
_OURS = rf"{ROOT.name}(\.\w+)+(:\w+)?"
_TARGETS = f"{ROOT.name}.targets"
_ROWS = f"{ROOT.name}.model.tasks"
_CHOICE = f"{ROOT.name}.runtime.variants"
"""The choice of a device among graphs: a stage opens folders of one."""
_distributions = functools.cache(importlib.metadata.packages_distributions)


@dataclass(frozen=True)
class Reads:
    """The code that runs when a function of ours is called."""

    files: tuple[Path, ...]
    """Our code, and other files in its folders, such as tables."""
    libraries: tuple[str, ...]
    """The distributions of others that this code imports, by name."""
    targets: bool
    """Whether it asks what is right on a target."""


def digest(*parts: Any) -> str:
    """A hash of texts, settings and the like, in their order."""
    texts = [
        part.model_dump_json() if hasattr(part, "model_dump_json") else str(part) for part in parts
    ]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def files_digest(files: Iterable[Path]) -> str:
    """A hash of files' contents, in their order."""
    stats = [(file, file.stat()) for file in files]
    return _read_digest(tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats))


def assets_digest(folder: Path) -> str:
    """A hash of a model's tokenizer and settings: the small files beside its weights."""
    kinds = {".json", ".txt", ".model", ".jinja"}
    files = [file for file in folder.glob("*") if file.suffix in kinds]
    below = [*folder.glob("*/config.json"), *folder.glob("*_*/*.safetensors")]
    return files_digest(sorted([*files, *below]))


def data_digest(path: Path) -> str:
    """A hash of the file, or of the folder's files, that a quality measure reads."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return files_digest(sorted(files))


def model_digest(checkpoint: Checkpoint) -> str:
    """A hash of the weights and of the configuration that they are read by."""
    config = json.dumps(checkpoint.config, sort_keys=True, default=str)
    return digest(config, files_digest(checkpoint.files))


def code_digest(functions: Iterable[str]) -> str:
    """A hash of what runs when these are called, each a module or "module:function": our code and
    tables, and the versions of the libraries."""
    read = [reads(function) for function in functions]
    files = sorted({file for each in read for file in each.files})
    libraries = {library for each in read for library in each.libraries}
    return digest(files_digest(files), json.dumps(versions(libraries)))


def closure_digest(functions: Iterable[str]) -> str | None:
    """A hash of our code and tables that run when these are called, each by its place and content;
    without the libraries' versions, and without what is compiled from files that are there too.
    None where a module is not there."""
    functions = list(functions)
    if not all(_file(function.partition(":")[0]) for function in functions):
        return None
    files = sorted({file for each in functions for file in reads(each).files})
    sources = [file for file in files if file.suffix not in _COMPILED]
    return digest(*(file.relative_to(ROOT).as_posix() for file in sources), files_digest(sources))


@contextlib.contextmanager
def package_at(folder: Path) -> Iterator[None]:
    """Keys of the package as it lies in another folder, for a while."""
    global ROOT
    was, ROOT = ROOT, folder
    forget()
    try:
        yield
    finally:
        ROOT = was
        forget()


def forget() -> None:
    """Read the files' imports again: one process reads each once."""
    for remembered in (reads, _file, _imports):
        remembered.cache_clear()


def processor_digest() -> str:
    """A hash of what of this machine decides how long a call takes."""
    facts = machine_facts()
    return digest(*(getattr(facts, name) for name in COMPARABLE), system_facts()["chosen"])


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Python's version, and that of every library."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in sorted(libraries)},
    }


@functools.cache
def _version(library: str) -> str:
    return importlib.metadata.version(library)


@functools.cache
def reads(function: str) -> Reads:
    """The code that runs when a module is used, or "module:function" called, by following imports
    wherever they stand.

    Of a function's own module only those are followed that it can come by. A string that names a
    module of ours is an import of it, but for those in the rows of the tasks: what a stage finds
    by a row, the stage says itself.
    """
    module, _, name = function.partition(":")
    statements = _statements(module)
    asked = set(_imported(_reached(statements, name) if name else statements))
    left = {(each, True) for each in asked}
    done: set[tuple[str, bool]] = set()
    while left:
        each, whole = left.pop()
        done.add((each, whole))
        found = _imports(each, whole)
        asked |= found
        left |= {(inner, True) for inner in found} | {(outer, False) for outer in _packages(each)}
        left -= done
    seen = {each for each, _ in done}
    code = {file for each in (*seen, module) if (file := _file(each))}
    beside = {
        file
        for folder in {file.parent for file in code} - {ROOT}
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in _CODE
    }
    names = {each.partition(".")[0] for each in seen} - sys.stdlib_module_names
    others = {each for name in names - {ROOT.name} for each in _distributions().get(name, [])}
    return Reads(tuple(sorted(code | beside)), tuple(sorted(others)), _TARGETS in asked)


@functools.cache
def _file(module: str) -> Path | None:
    """The file of a module of ours; None for those of others."""
    path = ROOT.parent.joinpath(*module.split("."))
    places = (path.with_suffix(".py"), path / "__init__.py")
    ours = path == ROOT or ROOT in path.parents
    return next((place for place in places if ours and place.is_file()), None)


def _packages(module: str) -> list[str]:
    """The packages that a module lies in."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@functools.cache
def _imports(module: str, whole: bool) -> frozenset[str]:
    """The modules that a module names, in its functions too where `whole`; of another's, none."""
    if not _file(module) or module == _CHOICE:
        return frozenset()
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    statements = (each for each in _statements(module) if whole or not isinstance(each, functions))
    return _imported(statements, strings=module != _ROWS)


def _statements(module: str) -> list[ast.stmt]:
    """The statements that run when a module of ours is loaded."""
    file = _file(module)
    assert file is not None, module
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [each for each in tree.body if not _is_for_types(each)]


def _is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)


def _reached(statements: Iterable[ast.stmt], name: str) -> list[ast.stmt]:
    """The statements that make a name and, in turn, the names that they use."""
    makers: dict[str, list[ast.stmt]] = {}
    for statement in statements:
        for made in _names_made(statement):
            makers.setdefault(made, []).append(statement)
    reached: list[ast.stmt] = []
    left = {name}
    while left:
        for statement in makers.pop(left.pop(), []):
            reached.append(statement)
            left |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return reached


def _names_made(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    else:
        stores = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
        yield from (node.id for node in stores if isinstance(node.ctx, ast.Store))


def _imported(statements: Iterable[ast.stmt], strings: bool = True) -> frozenset[str]:
    """The modules that statements name, in strings as well or not."""
    found: set[str] = set()
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if _file(each) else node.module for each in inner}
        elif strings and isinstance(node, ast.Constant) and re.fullmatch(_OURS, str(node.value)):
            named = str(node.value).partition(":")[0]
            found |= {named} if _file(named) else set()
    return frozenset(found)


@functools.cache
def _read_digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    content = hashlib.sha256()
    for file, *_ in files:
        with file.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()
