"""Measure from which sparsity on a sparse linear is worth it here, for the planner.

One thread; dense INT8 and every sparse contestant are timed once a round
(measure/bench/linears.py); a time is the median over rounds.
"""

from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.linears import Call, interleaved
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median
from edgeprune.search.times.linears import dense, sparse
from edgeprune.targets import Target
from edgeprune.targets.break_even import from_json

FORMATS = ("int8-4x16", "int8-4x1")
SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
# Inputs x outputs of encoders and small decoders, cut and whole; rows of a step, a few, a text.
SHAPES = ((384, 384), (384, 1536), (576, 1536), (768, 3072), (2048, 8192))
ROWS = (1, 16, 128)
_DENSE = "dense int8"


def measure_break_even(
    target: Target,
    rounds: int,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    rows: tuple[int, ...] = ROWS,
) -> dict[str, Any]:
    """The table of a target's break-even sparsities, measured on this machine, as
    targets/break_even.py reads it.

    Args:
        rounds: times that every linear is called.

    Raises:
        UserError: the operator library is not installed, or does not run here.
    """
    kernels = system_facts()
    if not kernels["chosen"]:
        missing = kernels["missing"] or "this processor lacks the wanted instruction set"
        raise UserError(f"Sparse linears need the operator library to be timed: {missing}.")
    work = [(inputs, outputs, count) for inputs, outputs in shapes for count in rows]
    content = {
        "target": target.name,
        "instruction_set": kernels["chosen"],
        "machine": machine_facts().to_json(),
        "rounds": rounds,
        "points": [point(*each, rounds) for each in track(work, "break-even", len(work))],
    }
    from_json(content)  # what is kept can be read
    return content


def point(inputs: int, outputs: int, rows: int, rounds: int) -> dict[str, Any]:
    """Median microseconds of one shape, dense and sparse."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    stock = dense(_DENSE, inputs, outputs, rng).SerializeToString()
    calls = {_DENSE: Call(stock, x, outputs, 1, library=False)}
    for name in FORMATS:
        for share in SPARSITIES:
            model = sparse(name, inputs, outputs, share, rng).SerializeToString()
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
