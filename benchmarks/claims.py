"""The figures of README.md and docs/ as a table, each with what measured it.

    python benchmarks/claims.py [--write] [--strict]

claims.yaml is the data: measurements (command, data, seeds, commit, processor, the code that was
measured) with the words of the text that rest on each, and, apart from these, the words that hold a
number and claim nothing, each with the reason. `--write` makes CLAIMS.md of it. Otherwise the table
is printed with its state: a row whose code is no longer what it was at its commit is "measured at
COMMIT". Nobody types a hash: git has the files of that commit, and the code that a call reaches is
found in them as for the keys of kept stages. `--strict`, of `make release`, refuses such rows.

Figures are runs of numbers outside of code: those with a decimal point or a unit, and counts such
as 64 of 100. Numbers in words ("twice as fast") are not found.
"""

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from edgeprune.pipeline import keys

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "claims.yaml"
TABLE = ROOT / "benchmarks" / "CLAIMS.md"
ANY = "any"
"""In place of a file: words that are no claim wherever they stand."""
_CODE = re.compile(r"```.*?```|`[^`\n]*`|^    [^\n]*$|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
_NUMBER = r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?![\w.]*\d)"
_UNIT = (
    r"(?:x|\s?(?:%|us|ms|s|seconds?|min|minutes?|hours?|kB|MB|GB|points?|nats|times|runs|load"
    r"|tokens per second))(?!\w)"
)
_NEXT = r"(?:,? (?:and|to|or|of|against|instead of) |, )"
_RUN = re.compile(rf"{_NUMBER}(?:{_UNIT})?(?:{_NEXT}{_NUMBER}(?:{_UNIT})?)*")
_TELLS = re.compile(rf"\d\.\d|\d(?:{_UNIT})|\d of \d")
_INTERVAL = re.compile(r"[+-]?[\d.,]+ to [+-]?[\d.,]+")


@dataclass(frozen=True)
class Figure:
    """Words of a text that state what was measured."""

    file: str
    says: str
    verdict: str
    interval: str | None = None
    """Where the words have none of the form "(low to high)"."""


@dataclass(frozen=True)
class Measurement:
    """One run that figures rest on."""

    command: str
    data: str
    seeds: str
    date: str
    commit: str
    """The one that recorded the figures, whose code counts as the measured one."""
    processor: str
    code: tuple[str, ...]
    """Modules, or "module:function" of the package, and files of the repository."""
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class NoClaim:
    """Words with a number that state nothing measured."""

    file: str
    says: str
    why: str


@dataclass(frozen=True)
class Claims:
    """What claims.yaml holds."""

    measurements: tuple[Measurement, ...]
    no_claims: tuple[NoClaim, ...] = field(default=())


def main() -> None:
    """Write the table, or print it with its state."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make CLAIMS.md")
    parser.add_argument("--strict", action="store_true", help="refuse rows of other code")
    given = parser.parse_args()
    claims = read(DATA)
    if given.write:
        TABLE.write_text(page(claims), encoding="utf-8")
        return
    now = [is_as_measured(each, ROOT) for each in claims.measurements]
    print("\n".join(rows(claims, now)))
    stale = sum(
        len(each.figures) for each, same in zip(claims.measurements, now, strict=True) if not same
    )
    total = sum(len(each.figures) for each in claims.measurements)
    print(f"\n{stale} of {total} figures were measured in another state of their code.")
    if given.strict and stale:
        sys.exit("Measure them again, record it in benchmarks/claims.yaml, and release then.")


def read(file: Path) -> Claims:
    """The claims of a file."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    measurements = tuple(
        Measurement(
            **{
                **each,
                "code": tuple(each["code"]),
                "figures": tuple(Figure(**figure) for figure in each["figures"]),
            }
        )
        for each in content["measurements"]
    )
    return Claims(measurements, tuple(NoClaim(**each) for each in content["no_claims"]))


def texts(root: Path) -> dict[str, str]:
    """The texts whose figures are rows, by their place."""
    files = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in files}


def figures(text: str) -> list[tuple[int, int]]:
    """Where the figures of a Markdown text begin and end, in the text as `joined` gives it."""
    prose = joined(_CODE.sub(lambda code: re.sub(r"\S", "\x01", code.group()), text))
    runs = (run for run in _RUN.finditer(prose) if _TELLS.search(run.group()))
    return [run.span() for run in runs]


def joined(text: str) -> str:
    """A text in one line, since words of it may stand in two."""
    return re.sub(r"\s+", " ", text)


def without_row(texts: dict[str, str], claims: Claims) -> list[str]:
    """Figures that no row and no exception covers, each with its file."""
    figured = [each for one in claims.measurements for each in one.figures]
    known = [(each.file, each.says) for each in (*figured, *claims.no_claims)]
    missing = []
    for file, text in texts.items():
        line = joined(text)
        said = [says for place, says in known if place in (file, ANY)]
        covered = [match.span() for says in said for match in re.finditer(re.escape(says), line)]
        for start, end in figures(text):
            if not any(first <= start and end <= last for first, last in covered):
                missing.append(f"{file}: {line[max(0, start - 20) : end + 20]}")
    return missing


def without_text(texts: dict[str, str], claims: Claims) -> list[str]:
    """Rows and exceptions whose words stand nowhere, each with its file."""
    figured = [each for one in claims.measurements for each in one.figures]
    lines = {file: joined(text) for file, text in texts.items()}
    return [
        f"{each.file}: {each.says}"
        for each in (*figured, *claims.no_claims)
        if not any(each.says in line for file, line in lines.items() if each.file in (file, ANY))
    ]


def is_as_measured(measurement: Measurement, root: Path) -> bool:
    """Whether the code is what it was at the measurement's commit."""
    archive = ["git", "-C", str(root), "archive", measurement.commit]
    told = subprocess.run(archive, capture_output=True, check=False)
    if told.returncode:
        sys.exit(f"Commit {measurement.commit} of benchmarks/claims.yaml is not in this clone.")
    with TemporaryDirectory(prefix="edgeprune-") as folder:
        with tarfile.open(fileobj=io.BytesIO(told.stdout)) as files:
            files.extractall(folder, filter="data")
        return state(measurement.code, Path(folder)) == state(measurement.code, root)


def state(code: Sequence[str], root: Path) -> list[str | None]:
    """Hashes of measured code as it lies below a folder; None for what is not there."""
    with keys.package_at(root / keys.ROOT.name):
        called = [each for each in code if each.startswith(f"{keys.ROOT.name}.")]
        paths = [root / each for each in code if each not in called]
        return [keys.closure_digest(called), *map(_content, paths)]


def _content(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def page(claims: Claims) -> str:
    """CLAIMS.md, which says nothing of the present code and so need not follow it."""
    head = [
        "# Claims",
        "",
        "Every figure of README.md and docs/ that states something measured. This page is made",
        "from `claims.yaml` by `python benchmarks/claims.py --write`; `make claims` prints it with",
        'its state: a row whose code has changed since is "measured at" its commit. Dates are',
        "those of the commit that recorded a figure.",
        "",
    ]
    exceptions = ["", "Numbers that claim nothing:", "", "| words | in | why |", "|---|---|---|"]
    exceptions += [f"| {cell(each.says)} | {each.file} | {each.why} |" for each in claims.no_claims]
    return "\n".join([*head, *rows(claims), *exceptions, ""])


def rows(claims: Claims, now: Sequence[bool] | None = None) -> list[str]:
    """The table's lines; with whether each measurement's code is as it was, they say it."""
    titles = ["figure", "in", "command", "data", "seeds", "interval", "date", "commit"]
    titles += ["processor", "verdict", *(["state"] if now else [])]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for number, each in enumerate(claims.measurements):
        for figure in each.figures:
            cells = [cell(figure.says), figure.file, f"`{each.command}`", each.data, each.seeds]
            cells += [interval(figure), each.date, each.commit, each.processor, figure.verdict]
            if now:
                cells.append("as now" if now[number] else f"measured at {each.commit}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def cell(words: str) -> str:
    """Words in a table's cell."""
    return words.strip("| ").replace("|", "\\|")


def interval(figure: Figure) -> str:
    """The interval that is stated, or the ones in the words."""
    return figure.interval or ", ".join(_INTERVAL.findall(figure.says)) or "none"


if __name__ == "__main__":
    main()
