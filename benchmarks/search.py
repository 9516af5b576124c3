"""Search MiniLM's front, and judge it by text that chose nothing.

    EDGEPRUNE_DATA=<folder> python benchmarks/search.py [--hours 2] [--seed 0]
        [--speedups 7,10,14,20,40] [--beside BUNDLE] [--work FOLDER] [--table]

One `edgeprune search` makes all models of a seed: STS-B's training pairs judge candidates, and are
never trained on. Each bundle is then judged once by STS-B's development pairs and by SICK's, which
are farther from the text, and timed beside the frozen `minilm-fast` (benchmarks/baseline.py), since
ratios to float32 move with core and minute. A search that was stopped goes on; a line a model is
kept in results/search.jsonl.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from judged import JUDGES, answer, data_folder, judged, run
from results_file import add_result, ratio_text, read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "search.jsonl"
SPEEDUPS = "7,10,14,20,40"


def main() -> None:
    """Search, judge what is not judged yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speedups", default=SPEEDUPS)
    parser.add_argument("--beside", type=Path, help="the frozen minilm-fast's bundle")
    parser.add_argument("--work", type=Path, default=Path("build") / "search")
    parser.add_argument(
        "--limit", type=int, default=1000, help="pairs by which candidates are judged"
    )
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    if not given.table:
        search(given, data_folder())
    print(table(read_results(RESULTS)))


def search(given: argparse.Namespace, data: Path) -> None:
    """The search, and a line for each of its models that has none."""
    output = given.work / f"seed-{given.seed}-{given.hours:g}h"
    asked = [part for speed in given.speedups.split(",") for part in ("--speedup", speed)]
    run(
        *("search", "encoder", "--task", "sts", "--eval", data / "pairs" / "stsb.train.jsonl"),
        *("--set", f"measure.limit={given.limit}", "--hours", given.hours, "--seed", given.seed),
        *(*asked, "--output", output),
        allowed=(0, 1),
    )
    record = json.loads((output / "search.json").read_text())
    for found in record["models"]:
        name = f"seed {given.seed}, {given.hours:g} h, {found['name']}"
        if name in read_results(RESULTS):
            continue
        place = output / "models" / found["name"]
        row: dict[str, Any] = {"name": name, "model": found, "machine": record["machine"]}
        row |= judged(place, data)
        if given.beside:
            row["beside"] = answer("bench", place / "bundle", "--against", given.beside)
        add_result(RESULTS, row)


def table(results: dict[str, Any]) -> str:
    """A line a model: shape, speed, and what it lost, with 95 % intervals."""
    rows = list(results.values())
    head = "| model | layers; heads; channels | trained, min | over float32 | predicted | "
    head += "over the frozen minilm-fast | STS-B dev lost | SICK dev lost | MB |"
    lines = [head, "|" + "---|" * 9]
    for row in rows:
        found = row["model"]
        shape = found["shape"]
        shown = (
            "all"
            if shape is None
            else "; ".join(
                ",".join(map(str, shape[kind])) for kind in ("layers", "heads", "channels")
            )
        )
        beside = row.get("beside")
        over = ratio_text(beside["measures"]["encoder"]["ratio"]) if beside else ""
        cells = [
            row["name"],
            shown,
            f"{found['minutes']:.1f}",
            ratio_text(found["speedup"]),
            f"{found['predicted']:.2f}x" if shape else "",
            over,
            *(lost(row[judge]) for judge in JUDGES),
            f"{found['megabytes']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lost(quality: dict[str, Any]) -> str:
    """Points that are lost, with the interval of the paired difference."""
    key = next(iter(quality["difference"]))
    low, high = quality["difference_interval"][key]
    return f"{-quality['difference'][key]:.2f} ({-high:.2f} to {-low:.2f})"


if __name__ == "__main__":
    main()
