"""Measure how long a dense linear takes here in each format, for the table that ships.

    python benchmarks/format_times.py [--rounds 200] [--output FILE]

The table is written into edgeprune/targets/format_times/, under the name of this machine's target,
and is what `quantize.linears_ms` is kept by from then on, wherever `edgeprune calibrate` has not
measured a machine's own. The machine must be quiet: a few minutes.
"""

import argparse
from pathlib import Path
from typing import Any

from edgeprune.search.times.formats import FORMS, measure_formats
from edgeprune.targets import detect
from edgeprune.targets.format_times import FOLDER, form_name
from edgeprune.targets.table import write_table


def main() -> None:
    """Time every point and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, help="by default the target's own table")
    given = parser.parse_args()
    content = measure_formats(detect(), given.rounds)
    written = write_table(content, FOLDER, given.output)
    print(table(content))
    print(written)


def table(content: dict[str, Any]) -> str:
    """Microseconds, a line a shape."""
    names = [form_name(*form) for form in FORMS]
    lines = [f"{'':24}" + "".join(f"{name:>12}" for name in names)]
    for entry in content["points"]:
        work = f"{entry['inputs']}x{entry['outputs']}, {entry['rows']} rows"
        lines.append(f"{work:24}" + "".join(f"{entry['us'][name]:12.1f}" for name in names))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
