"""The command line of a benchmark whose rows stand beside peers, and which goes on where it was."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from results_file import add_result, read_results


class Named(Protocol):
    """A row, by the name under which its result is kept."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)
Measure = Callable[[R, Path, Path, float], dict[str, Any]]
"""(row, folder of texts, --work, --seconds) -> the row's line of the results."""


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON in a file: made once, and read from then on."""
    if not file.exists():
        file.write_text(json.dumps(make()), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def run_rows(
    description: str,
    results: Path,
    rows: Iterable[R],
    measure: Measure[R],
    table: Callable[[dict[str, Any]], str],
    missing: Callable[[R], str] = lambda row: "",
) -> None:
    """Run what is not there yet, then print the table.

    Args:
        missing: what a row cannot run without here, so that it is left out; nothing where it can.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", action="append", default=[], help="words of a row's name")
    parser.add_argument("--work", type=Path, default=Path("build") / results.stem)
    parser.add_argument("--seconds", type=float, default=60.0, help="a row's rounds at most")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    done = read_results(results)
    if not given.table:
        data = os.environ.get("EDGEPRUNE_DATA")
        if not data:
            sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
        for row in rows:
            if row.name in done or not all(words in row.name for words in given.only):
                continue
            if lacking := missing(row):
                print(f"Left out, for want of {lacking}: {row.name}")
                continue
            done[row.name] = measure(row, Path(data), given.work, given.seconds)
            add_result(results, done[row.name])
    print(table(done))
