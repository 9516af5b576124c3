"""Measure from which sparsity on a sparse linear is worth it here, for the planner.

    python benchmarks/break_even.py [--rounds 200] [--output FILE]

The table is written beside the others in edgeprune/targets/tables/, under the name of this
machine's target, and is what builds for that target are planned by from then on. One thread;
dense INT8 and every sparse contestant are timed once a round, in an order drawn anew
(sparse_linear.py); a time is the median over rounds. The machine must be quiet: a few minutes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sparse_linear import Call, dense, interleaved, sparse

from edgeprune.base.progress import track
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median
from edgeprune.targets import detect
from edgeprune.targets.break_even import FOLDER, from_json
from edgeprune.targets.table import write_table

FORMATS = ("int8-4x16", "int8-4x1")
SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
# Inputs x outputs of encoders and small decoders, cut and whole; rows of a step, a few, a text.
SHAPES = ((384, 384), (384, 1536), (576, 1536), (768, 3072), (2048, 8192))
ROWS = (1, 16, 128)
_DENSE = "dense int8"


def main() -> None:
    """Time every point and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, help="by default the target's own table")
    given = parser.parse_args()
    target, kernels = detect().name, system_facts()
    if not kernels["chosen"]:
        sys.exit(f"No operator library: {kernels['missing']}.")
    work = [(inputs, outputs, rows) for inputs, outputs in SHAPES for rows in ROWS]
    content = {
        "target": target,
        "instruction_set": kernels["chosen"],
        "machine": machine_facts().to_json(),
        "rounds": given.rounds,
        "points": [point(*each, given.rounds) for each in track(work, "break-even", len(work))],
    }
    from_json(content)
    written = write_table(content, FOLDER, given.output)
    print(table(content))
    print(written)


def point(inputs: int, outputs: int, rows: int, rounds: int) -> dict[str, Any]:
    """Median microseconds of one shape, dense and sparse."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    calls = {_DENSE: Call(dense(_DENSE, inputs, outputs, rng), x, outputs, 1, library=False)}
    for name in FORMATS:
        for share in SPARSITIES:
            model = sparse(name, inputs, outputs, share, rng)
            calls[f"{name} {share}"] = Call(model, x, outputs, 1, library=True)
    times = {name: median(found) * 1e6 for name, found in interleaved(calls, rounds).items()}
    return {
        "inputs": inputs,
        "outputs": outputs,
        "rows": rows,
        "dense_int8_us": round(times[_DENSE], 2),
        "sparse_us": {
            name: [[share, round(times[f"{name} {share}"], 2)] for share in SPARSITIES]
            for name in FORMATS
        },
    }


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
