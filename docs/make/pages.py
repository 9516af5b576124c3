"""MkDocs' hook: which pages the site has beside those of docs/, and where their links lead.

A page may link to any file of the repository, by its place there, as GitHub wants it. Here such a
link leads to that file's page, or to a copy of the file; one that leads nowhere is left to MkDocs,
which warns, and `make docs` takes warnings as errors. Pages are made of README.md, of others that
are not in docs/ (PAGES), of the code (reference.py), and of the notebook.
"""

import posixpath
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import notebook
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "docs/notebook.ipynb": "notebook.md",
    **{
        page: page
        for page in (
            *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
            *("benchmarks/README.md", "benchmarks/CLAIMS.md", "benchmarks/devices/README.md"),
            *(f"deploy/{folder}/README.md" for folder in ("docker", "examples", "service", "web")),
        )
    },
}
"""Pages of the repository outside docs/ -> their places in the site."""
MADE: dict[str, tuple[str, Callable[[], str]]] = {
    "reference/recipe.md": (
        "Every key of a recipe: type, bounds, default, what it does",
        reference.recipe,
    ),
    "reference/commands.md": ("Every command and option", reference.commands),
    "reference/python.md": ("Every public name in Python", reference.python),
}
"""Pages that are made of the code: what each has."""
PARTS: dict[str, Callable[[], str]] = {
    "reference": lambda: "\n".join(f"- [{title}]({page})" for page, (title, _) in MADE.items()),
    "recipes": reference.recipes,
    "methods": reference.methods,
    "families": reference.families,
    "tasks": reference.tasks,
}
"""Parts of pages that are made of the code: what replaces `<!-- made: NAME -->` to `<!-- end -->`,
between which stands what a reader without the site needs."""
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")
_PART = re.compile(r"^<!-- made: (\w+) -->$.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the files that pages link to."""
    for source, place in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = notebook.page(text) if source.endswith(".ipynb") else text
        files.append(File.generated(config, place, content=content))
    for place, (_, made) in MADE.items():
        files.append(File.generated(config, place, content=made()))
    for page in list(files.documentation_pages()):
        for target in _linked(page.src_uri, page.content_string):
            place = _place(target)
            if place and files.get_file_from_path(place) is None:
                content = (ROOT / target).read_bytes()
                files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fill in what is made of the code, and lead links to where their targets are in the site."""
    here = page.file.src_uri
    text = _PART.sub(lambda found: PARTS[found[1]](), markdown)

    def led(found: re.Match[str]) -> str:
        place = _place(_target(here, found[2]))
        near = posixpath.relpath(place, posixpath.dirname(here)) if place else found[2]
        return found[1] + near

    return _outside_code(text, lambda prose: _LINK.sub(led, prose))


def _linked(here: str, text: str) -> set[str]:
    """Places in the repository that a page links to."""
    return {_target(here, found[2]) for found in _LINK.finditer(_CODE.sub("", text))}


def _target(here: str, link: str) -> str:
    """A link's place in the repository."""
    sources = {place: source for source, place in PAGES.items()}
    source = sources.get(here, f"docs/{here}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return f"{target}/README.md" if (ROOT / target / "README.md").is_file() else target


def _place(target: str) -> str | None:
    """The place in the site of a file of the repository; None where there is no such file."""
    if target in PAGES:
        return PAGES[target]
    inner = target.removeprefix("docs/")
    shown = target.startswith("docs/") and not target.startswith("docs/make/")
    if shown and (inner in MADE or (ROOT / target).is_file()):
        return inner
    return f"files/{target}" if (ROOT / target).is_file() else None


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """A text with everything changed but its code."""
    ends = [0, *(end for found in _CODE.finditer(text) for end in found.span()), len(text)]
    parts = [text[start:end] for start, end in pairwise(ends)]
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))
