"""Compare a lowered graph with its float graph at every seam, the input of a lowered linear.

    float     ─> x ┆ rounded x ─> MatMul ─> attention ─> x ┆ rounded x ─> MatMul ─> outputs
    lowered   ─> x ───────────> INT8 product ─> attention ─> x ──────> INT8 product ─> outputs

Whole outputs say little: the last bit of a sum decides the code of a value halfway between two, and
after some layers two graphs that round alike are as far apart as either is from float32. So at
every seam the float graph is given the lowered graph's value, rounded as planned. From there to the
next seams and the outputs, it must compute what the lowered graph did, up to the order of sums.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from onnx import TensorProto

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
from edgeprune.kernels.formats import DOMAIN

_FLOAT = TensorProto.FLOAT


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
            read = f"{linear.input}/{entry.format}/{entry.input_scale}"
            nodes[linear.product.name].input[0] = read
            rounded[read] = linear.input, entry
    given = {name: (seam, _rounded(entry)) for name, (seam, entry) in rounded.items()}
    seams = {seam: lowered.now(seam) for seam, _ in rounded.values()}
    return _apart(forced, exposed, given, seams, batches, kernels)


def step_drift(
    before: Graph, after: Graph, batches: Sequence[Feed], kernels: bool = False
) -> float:
    """The same between two lowered graphs, of which the second has operators of edgeprune.kernels
    that do more: every step from one of their inputs or outputs to the next is computed by the
    first graph from the values of the second."""
    forced, exposed = before.snapshot(), after.snapshot()
    touched = {
        name
        for node in after.nodes
        if node.domain == DOMAIN
        for name in (*node.input, *node.output)
        if name in after.producers
    }
    types = before.types()
    seams = {
        name: now
        for name in before.producers
        if (now := after.now(name)) in touched and types.get(name, _FLOAT) == _FLOAT
    }
    given = {}
    for seam in seams:
        for node in forced.consumers.get(seam, []):
            for place, name in enumerate(node.input):
                if name == seam:
                    node.input[place] = f"{seam}/given"
                    given[f"{seam}/given"] = (seam, np.asarray)
    return _apart(forced, exposed, given, seams, batches, kernels)


Given = Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]
"""Input of the float graph -> the seam that it stands for, and what is done to that."""


def _apart(
    forced: Graph,
    exposed: Graph,
    given: Given,
    seams: Mapping[str, str],
    batches: Sequence[Feed],
    kernels: bool,
) -> float:
    """The largest drift between what one graph computes from the other's values and these.

    Args:
        forced: reads `given`.
        seams: tensor of `forced` -> the same of `exposed`.
    """
    if not all(exposed.holds(name) for name in seams.values()):
        return float("inf")
    for graph, names in ((forced, seams.keys()), (exposed, seams.values())):
        for name in names:
            graph.add_output(name)
    for name in given:
        forced.add_input(name)
    forced.index()
    answers = _made(exposed, batches, kernels)
    worst, reference = 0.0, opened(forced)
    for feed, got in answers:
        inputs = {name: change(got[seams[seam]]) for name, (seam, change) in given.items()}
        trim()  # what reading and rounding took
        wanted = outputs_of(reference, {**feed, **inputs})
        del inputs
        for name, value in wanted.items():  # one at a time, for they are large
            made = got[seams.get(name, name)]
            before, after = ([without_padding({name: each}, feed)] for each in (value, made))
            worst = max(worst, mean_drift(before, after))
    return worst


def _rounded(entry: Entry) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: round_input(torch.from_numpy(values), entry).numpy()


def _made(graph: Graph, batches: Sequence[Feed], kernels: bool) -> list[tuple[Kept, Kept]]:
    """(inputs, outputs) of every call. The session ends here, before another one takes memory: the
    inputs of a second call are outputs of the first, and would keep what the session had."""
    session = opened(graph, kernels)
    return [(Kept(feed), Kept(got)) for batch in batches for feed, got in calls(session, batch)]
