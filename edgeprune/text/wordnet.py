"""The English of a dictionary: WordNet's definitions and examples, from its own database files.

A short text about everything: all of a language's words in 156,000 sentences, where news or an
encyclopaedia of that length repeat a few. The format is WordNet's wndb(5): a line a synset,
its gloss after a vertical bar; lines that begin with two spaces are the licence.
"""

import re
from pathlib import Path

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_EXAMPLE = re.compile(r'"([^"]+)"')
_FIRST_EXAMPLE = re.compile(r';\s*"')


def find(root: Path) -> Path | None:
    """The newest WordNet database under a folder: the last in order of name; None without one."""
    folders = sorted(file.parent for file in root.rglob(FILES[0]))
    return next(
        (at for at in reversed(folders) if all((at / name).is_file() for name in FILES)), None
    )


def read(folder: Path) -> list[str]:
    """Every definition and every example as a sentence with a full stop, in the files' order."""
    return [
        f"{text}."
        for name in FILES
        for line in (folder / name).read_text(encoding="utf-8").splitlines()
        if not line.startswith("  ") and " | " in line
        for text in _texts(line.split(" | ", 1)[1])
    ]


def _texts(gloss: str) -> list[str]:
    definition = _FIRST_EXAMPLE.split(gloss, maxsplit=1)[0]
    return [text.strip(" ;.") for text in (definition, *_EXAMPLE.findall(gloss))]
