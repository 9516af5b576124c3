"""Compare a lowered graph with its float graph at every seam, the input of a lowered linear.

    float     ─> x ┆ rounded x ─> MatMul ─> attention ─> x ┆ rounded x ─> MatMul ─> outputs
    lowered   ─> x ───────────> INT8 product ─> attention ─> x ──────> INT8 product ─> outputs

Whole outputs say little: the last bit of a sum decides the code of a value halfway between two, and
after some layers two graphs that round alike are as far apart as either is from float32. So at
every seam the float graph is given the lowered graph's value, rounded as planned. From there to the
next seams and the outputs, it must compute what the lowered graph did, up to the order of sums.
"""

from collections.abc import Sequence

import torch

from edgeprune.base.memory import trim
from edgeprune.compress.quantize.plan import Entry
from edgeprune.compress.quantize.rounding import round_input
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.linears import find_linears
from edgeprune.export.rewrite.outputs import Feed, Kept
from edgeprune.export.rewrite.verify import (
    calls,
    mean_drift,
    opened,
    outputs_of,
    without_padding,
)


def seam_drift(
    plain: Graph,
    lowered: Graph,
    entries: Sequence[Entry],
    batches: Sequence[Feed],
    kernels: bool = False,
) -> float:
    """The largest ||a - b|| / ||a|| over seams, outputs and calls; infinite if a seam is missing.

    Args:
        plain: the graph in float32, with the plan's weight values.
        lowered: the same graph after lowering.
        entries: the linears lowered so far.
        kernels: run sparse linears by the operator library, not by their functions.
    """
    forced, exposed = plain.snapshot(), lowered.snapshot()
    nodes = {node.name: node for node in forced.nodes}
    rounded: dict[str, tuple[str, Entry]] = {}
    """Input of the float graph -> the tensor that it is rounded from, and how."""
    linears = find_linears(plain, [entry.name for entry in entries])
    for entry in entries:
        for linear in linears[entry.name]:
            given = f"{linear.input}/{entry.format}/{entry.input_scale}"
            nodes[linear.product.name].input[0] = given
            rounded[given] = linear.input, entry
    seams = {seam: lowered.now(seam) for seam, _ in rounded.values()}
    if not all(lowered.holds(name) for name in seams.values()):
        return float("inf")
    for graph, names in ((forced, seams.keys()), (exposed, seams.values())):
        for name in names:
            graph.add_output(name)
    for given in rounded:
        forced.add_input(given)
    forced.index()
    answers = _made(exposed, batches, kernels)
    worst, reference = 0.0, opened(forced)
    for feed, got in answers:
        inputs = {
            given: round_input(torch.from_numpy(got[seams[seam]]), entry).numpy()
            for given, (seam, entry) in rounded.items()
        }
        trim()  # what reading and rounding took
        wanted = outputs_of(reference, {**feed, **inputs})
        del inputs
        for name, value in wanted.items():  # one at a time, for they are large
            made = got[seams.get(name, name)]
            before, after = ([without_padding({name: each}, feed)] for each in (value, made))
            worst = max(worst, mean_drift(before, after))
    return worst


def _made(graph: Graph, batches: Sequence[Feed], kernels: bool) -> list[tuple[Kept, Kept]]:
    """(inputs, outputs) of every call. The session ends here, before another one takes memory: the
    inputs of a second call are outputs of the first, and would keep what the session had."""
    session = opened(graph, kernels)
    return [(Kept(feed), Kept(got)) for batch in batches for feed, got in calls(session, batch)]
