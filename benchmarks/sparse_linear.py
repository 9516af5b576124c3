"""Time one sparse linear against ONNX Runtime's dense INT8, INT4 and float32 products.

    python benchmarks/sparse_linear.py [--shape 384x1536] [--rows 128] [--threads 1] [--rounds 300]

Every contestant is timed once a round, in an order drawn anew, inputs and outputs bound beforehand;
the ratio is the median over rounds of dense over sparse, with its 95 % bootstrap interval. The
weights are random: speed only. JSON goes to --json FILE, or - for the screen.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.kernels.formats import FORMATS
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.linears import Call, interleaved
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median, paired_ratio
from edgeprune.search.times.linears import dense, sparse

BASELINES = ("dense int8", "dense int4", "dense float32")


def main() -> None:
    """Time, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="384x1536", help="inputs x outputs")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--call", nargs=2, metavar=("CONTESTANT", "TIMES"), help="call one, for a counter outside"
    )
    given = parser.parse_args()
    inputs, outputs = map(int, given.shape.split("x"))
    rng = np.random.default_rng(0)
    if given.call:
        call_only(given.call[0], int(given.call[1]), inputs, outputs, given.rows)
        return
    contestants = {name: dense(name, inputs, outputs, rng) for name in BASELINES}
    fallback = sparse("int8-4x16", inputs, outputs, given.sparsity[-1], rng)
    contestants["int8-4x16 without the library"] = fallback
    for name in given.formats:
        for share in given.sparsity:
            contestants[f"{name} {share:.0%}"] = sparse(name, inputs, outputs, share, rng)
    x = rng.standard_normal((given.rows, inputs)).astype(np.float32)
    calls = {
        name: Call(model.SerializeToString(), x, outputs, given.threads, library="%" in name)
        for name, model in contestants.items()
    }
    times = interleaved(calls, given.rounds)
    result = {
        "shape": [inputs, outputs],
        "rows": given.rows,
        "threads": given.threads,
        "rounds": given.rounds,
        "machine": machine_facts().to_json(),
        "kernels": system_facts(),
        "contestants": {name: summary(name, times) for name in times},
    }
    text = json.dumps(result, indent=2)
    if given.json == "-":
        print(text)
        return
    print(table(result))
    if given.json:
        Path(given.json).write_text(text + "\n", encoding="utf-8")


def call_only(name: str, times: int, inputs: int, outputs: int, rows: int) -> None:
    """Make one contestant, "dense int8" or "int8-4x16 80%", and call it: nothing is timed."""
    rng = np.random.default_rng(0)
    form, _, share = name.rpartition(" ")
    is_sparse = form in FORMATS
    model = (
        sparse(form, inputs, outputs, float(share.rstrip("%")) / 100, rng)
        if is_sparse
        else dense(name, inputs, outputs, rng)
    )
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    call = Call(model.SerializeToString(), x, outputs, threads=1, library=is_sparse)
    for _ in range(times):
        call.time()


def summary(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Median microseconds, and the ratio of each baseline's time to this one's."""
    found: dict[str, Any] = {
        "microseconds": median(times[name]) * 1e6,
        "p20_microseconds": float(np.percentile(times[name], 20)) * 1e6,
    }
    for baseline in BASELINES:
        ratio = paired_ratio(times[baseline], times[name])
        found[f"over {baseline}"] = [ratio.value, ratio.low, ratio.high]
    return found


def table(result: dict[str, Any]) -> str:
    """One line a contestant."""
    lines = [f"{'':32}{'us':>8}" + "".join(f"{'x ' + name:>26}" for name in BASELINES)]
    for name, row in result["contestants"].items():
        ratios = ["{:.2f} ({:.2f} to {:.2f})".format(*row[f"over {base}"]) for base in BASELINES]
        lines.append(
            f"{name:32}{row['microseconds']:8.0f}" + "".join(f"{text:>26}" for text in ratios)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
