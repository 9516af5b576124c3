"""The rooms inside edgeprune/compress: imports point down one list, and methods do not meet."""

import ast
from collections.abc import Iterator
from pathlib import Path

import edgeprune.compress

COMPRESS = Path(edgeprune.compress.__file__).parent
FLOORS = [
    {"maths", "records"},
    {"objectives"},
    {"calibrate"},
    {"levels", "distil"},
    {"context", "facts"},
    {"stage"},
    {file.parent.name for file in COMPRESS.glob("*/row.py")},
]
"""From the lowest; a room imports from lower floors alone. The stages are the uppermost."""
# What the mathematics may know of this package: exact budgets and errors.
MATHS_MAY_USE = ("edgeprune.base.", "edgeprune.compress.maths.")


def imports() -> Iterator[tuple[Path, str]]:
    """Every module of edgeprune that a file of compress/ names, in an import or in a registry."""
    for file in sorted(COMPRESS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                yield file, node.module or ""
            elif isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.Constant) and str(node.value).startswith("edgeprune."):
                yield file, str(node.value).partition(":")[0]


def room(file: Path) -> str:
    return file.relative_to(COMPRESS).parts[0].removesuffix(".py")


def arrows() -> dict[tuple[str, str], list[str]]:
    """(from, to) -> the files that import so."""
    found: dict[tuple[str, str], list[str]] = {}
    for file, module in imports():
        parts = module.split(".")
        if parts[:2] == ["edgeprune", "compress"] and len(parts) > 2 and parts[2] != room(file):
            found.setdefault((room(file), parts[2]), []).append(str(file.relative_to(COMPRESS)))
    return found


def test_every_room_has_its_floor():
    rooms = {room(file) for file in COMPRESS.rglob("*.py")} - {"__init__"}
    assert rooms == set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(rooms)


def test_imports_point_down():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    found = arrows()
    assert ("prune", "maths") in found  # the reader of imports sees them
    up = {arrow: files for arrow, files in found.items() if floor[arrow[0]] <= floor[arrow[1]]}
    assert up == {}


def test_the_mathematics_knows_nothing_of_models():
    own = [(file.name, module) for file, module in imports() if room(file) == "maths"]
    assert own
    assert [
        (name, module)
        for name, module in own
        if module.startswith("edgeprune.") and not module.startswith(MATHS_MAY_USE)
    ] == []
