"""Measure from which sparsity on a sparse linear is worth it here, for the table that ships.

    python benchmarks/break_even.py [--rounds 200] [--output FILE]

The table is written beside the others in edgeprune/targets/tables/, under the name of this
machine's target, and is what builds for that target are planned by from then on, wherever
`edgeprune calibrate` has not measured a machine's own. The machine must be quiet: a few minutes.
"""

import argparse
from pathlib import Path
from typing import Any

from edgeprune.search.times.break_even import SPARSITIES, measure_break_even
from edgeprune.targets import detect
from edgeprune.targets.break_even import FOLDER
from edgeprune.targets.table import write_table


def main() -> None:
    """Time every point and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, help="by default the target's own table")
    given = parser.parse_args()
    content = measure_break_even(detect(), given.rounds)
    written = write_table(content, FOLDER, given.output)
    print(table(content))
    print(written)


def table(content: dict[str, Any]) -> str:
    """How many times faster than dense INT8, a line a shape and format."""
    lines = [f"{'':32}" + "".join(f"{share:>8.0%}" for share in SPARSITIES)]
    for entry in content["points"]:
        work = f"{entry['inputs']}x{entry['outputs']}, {entry['rows']} rows"
        for name, line in entry["sparse_us"].items():
            ratios = "".join(f"{entry['dense_int8_us'] / time:8.2f}" for _, time in line)
            lines.append(f"{work:22}{name:10}{ratios}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
