"""Make benchmarks/README.md: `python benchmarks/page.py`.

sections.md has the words, and a line `<!-- table: NAME -->` for each table that is made from
results/NAME.jsonl by the script NAME.py. Tables that stand in sections.md as they are were made by
hand: of results that are not kept, or put together from several.
"""

import importlib
import re
from pathlib import Path

from results_file import read_results

HERE = Path(__file__).parent
WORDS = HERE / "sections.md"
PAGE = HERE / "README.md"
_TABLE = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(WORDS.read_text(encoding="utf-8")), encoding="utf-8")


def page(words: str) -> str:
    """The words with their tables."""
    made = "<!-- Made by page.py from sections.md and results/. -->\n\n"
    return made + _TABLE.sub(lambda found: table(found[1]), words)


def table(name: str) -> str:
    """What a benchmark's script makes of its results."""
    made: str = importlib.import_module(name).table(
        read_results(HERE / "results" / f"{name}.jsonl")
    )
    return made


if __name__ == "__main__":
    main()
