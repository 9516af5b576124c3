"""How the package's files import each other, read from their code."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOMS = (
    "base",
    "targets",
    "kernels",
    "text",
    "model",
    "runtime",
    "service",
    "compress",
    "export",
    "measure",
    "report",
    "pipeline",
    "search",
)
"""From the ground up: every import points down this list."""
FILES_ABOVE = ("cli.py", "__init__.py", "__main__.py", "py.typed")
"""What stands above the rooms: every room is open to these, and these to no room."""


ROWS = "model/tasks.py"
"""Its strings name what lies above it, for whoever asks a row: they are no imports of its own."""


@dataclass(frozen=True, order=True)
class Import:
    """A line of a file that names another file of the package. Files as in "text/files.py"."""

    file: str
    line: int
    of: str

    @property
    def edge(self) -> tuple[str, str]:
        return self.file, self.of

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.of}"


def imports(package: Path) -> list[Import]:
    """Every import: at a file's top, in a function, for a type checker, or by a string."""
    files = {file.relative_to(package).as_posix() for file in package.rglob("*.py")}
    found = []
    for file in sorted(files):
        tree = ast.parse((package / file).read_text(encoding="utf-8"))
        for line, names in _named(tree, package.name, strings=file != ROWS):
            of = next(filter(None, (_file_of(name, files) for name in names)), None)
            if of and of != file:
                found.append(Import(file, line, of))
    return sorted(found)


def _named(tree: ast.AST, package: str, strings: bool) -> Iterator[tuple[int, list[str]]]:
    """(line, dotted names to try in turn) of all that is imported from a package.

    The package's own name and its version are everybody's. The other names in its __init__.py are a
    user's door, and belong to that file.
    """
    spoken = re.compile(rf"(?:import )?({package}(?:\.\w+)+)(?::\w+)?")
    for node in ast.walk(tree):
        tries: list[list[str]] = []
        if isinstance(node, ast.Import):
            tries = [[alias.name] for alias in node.names if alias.name != package]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            tries = [[f"{node.module}.{name}", node.module] for name in names]
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
            tries = [[match[1]] for match in [spoken.fullmatch(node.value)] if match]
        yield from ((node.lineno, each) for each in tries if each[0].split(".")[0] == package)


def _file_of(name: str, files: set[str]) -> str | None:
    """The file that a module is, by its dotted name."""
    path = "/".join(name.split(".")[1:])
    package = f"{path}/__init__.py".removeprefix("/")
    return next((file for file in (f"{path}.py", package) if file in files), None)


def room(file: str) -> str:
    """The room that a file lies in; "" for those above the rooms."""
    return file.rpartition("/")[0].partition("/")[0]


def floor(file: str) -> int:
    """How high a file stands. A room that is not in the list is an error."""
    return ROOMS.index(room(file)) if room(file) else len(ROOMS)


def circle(edges: set[tuple[str, str]]) -> list[str]:
    """Files that import each other in a circle, the first one again at the end; [] if none do."""
    left: dict[str, set[str]] = {}
    for file, of in edges:
        left.setdefault(file, set()).add(of)
    done: set[str] = set()
    for start in sorted(left):
        way: list[str] = []
        if _walk(start, left, done, way):
            return way[way.index(way[-1]) :]
    return []


def _walk(file: str, left: dict[str, set[str]], done: set[str], way: list[str]) -> bool:
    """Follow imports depth first; true when `way` ends in a file that it holds already."""
    if file in done:
        return False
    way.append(file)
    if file in way[:-1] or any(_walk(of, left, done, way) for of in sorted(left.get(file, ()))):
        return True
    done.add(way.pop())
    return False
