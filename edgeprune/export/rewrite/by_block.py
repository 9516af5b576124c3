"""Rewrite the graph of a model that is too large to be run as a whole, and compare it part by part.

    ids ─> [embeddings] ─> states ─> [layer 0] ─> ... ─> [layer n] ─> states ─> [head] ─> logits

A part is cut out of the graph that ships, with its cache. The emitted part is given torch's states
and must answer with torch's next ones, for a batch and for one token more; after each pass, it is
compared with the same part before it, as rewrite/run.py compares whole graphs. So each part is
right wherever it stands; that parts are joined right, the first two layers show, which are
compared with torch as a whole (stage.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.base.progress import track
from edgeprune.compress.quantize.model import Quantized
from edgeprune.export.emit.reference import States
from edgeprune.export.graph import BEGIN, END, Graph
from edgeprune.export.rewrite.linears import find_linears
from edgeprune.export.rewrite.run import (
    EMITTED,
    Pass,
    PassReport,
    RewriteError,
    at_seams,
    passes_for,
)
from edgeprune.export.rewrite.verify import (
    NEXT,
    Feed,
    calls,
    largest_drift,
    mean_drift,
    opened,
    run_graph,
    without_padding,
)
from edgeprune.model.anatomy import Anatomy
from edgeprune.runtime.names import PRESENT
from edgeprune.targets import Target

_LOGITS = "logits"


@dataclass(frozen=True)
class _Part:
    """One part of a decoder, by the number of the states that it reads; None: it reads tokens."""

    reads: int | None
    writes: int | None
    """None: logits."""

    def of(self, graph: Graph) -> Graph:
        """The part of a graph."""
        begin = None if self.reads is None else graph.now(graph.stations[self.reads])
        end = _LOGITS if self.writes is None else graph.now(graph.stations[self.writes])
        caches = []
        if self.reads is not None and self.writes is not None:
            caches = [f"{PRESENT}{self.reads}.{part}" for part in ("key", "value")]
        return graph.part(begin, end, caches)

    def feeds(self, seen: Sequence[States]) -> list[Feed]:
        """The inputs that the part is given of each batch."""
        if self.reads is None:
            return [each.batch for each in seen]
        return [
            {
                **each.batch,
                BEGIN: each.prompt[self.reads],
                f"{NEXT}{BEGIN}": each.following[self.reads],
            }
            for each in seen
        ]


def parts_of(anatomy: Anatomy) -> list[_Part]:
    """A decoder's parts in order: embeddings, layers, head."""
    count = len(anatomy.blocks)
    layers = [_Part(place, place + 1) for place in range(count)]
    return [_Part(None, 0), *layers, _Part(count, None)]


def rewrite_by_block(
    graph: Graph,
    output: Path,
    anatomy: Anatomy,
    quantized: Quantized | None,
    seen: Sequence[States],
    target: Target,
) -> list[PassReport]:
    """Rewrite an emitted decoder into `output`.

    Args:
        quantized: the plan and its values; None leaves every weight as it is.
        seen: torch's states on some batches.

    Returns:
        A report of every pass, with the largest drift of a part.

    Raises:
        RewriteError: a part answers otherwise than torch, or than before a pass.
    """
    parts = parts_of(anatomy)
    reports = [_as_torch(graph, parts, seen)]
    plain, lowered = graph.snapshot(), set()
    for step in passes_for(anatomy, quantized, target, emitted=True):
        before = graph.snapshot()
        changed = step.change(graph)
        lowered |= set(step.lowers)
        drift, rounding = 0.0, None
        for part in track(parts, step.name, len(parts)):
            old, new, feeds = part.of(before), part.of(graph), part.feeds(seen)
            if _alike(old, new):
                continue
            answers = run_graph(old, feeds), run_graph(new, feeds)
            if not step.lowers or quantized is None:
                compare = mean_drift if step.quantizes else largest_drift
                drift = max(drift, compare(*answers))
                continue
            whole = part.of(plain)
            entries = [entry for entry in quantized.plan if entry.format in lowered]
            inside = find_linears(whole, [entry.name for entry in entries])
            entries = [entry for entry in entries if entry.name in inside]
            drift = max(drift, at_seams(whole, new, entries, feeds, step.kernels))
            rounding = max(rounding or 0.0, mean_drift(*answers))
        if drift > step.tolerance:
            raise RewriteError(
                f"the pass {step.name!r} differs by {drift:.3g} from what was planned in a part of "
                f"the model, beyond its tolerance of {step.tolerance:g}"
            )
        reports.append(_report(step, changed, graph, drift, rounding))
    graph.save(output)
    return reports


def _report(
    step: Pass, changed: int, graph: Graph, drift: float, rounding: float | None
) -> PassReport:
    nodes = len(graph.nodes)
    return PassReport(step.name, changed, nodes, drift, step.tolerance, True, rounding=rounding)


def _as_torch(graph: Graph, parts: Sequence[_Part], seen: Sequence[States]) -> PassReport:
    """The report of an emission, whose parts must answer as torch's do."""
    worst = max(
        drift
        for part in track(parts, "as torch", len(parts))
        for drift in _beside_torch(part, graph, seen)
    )
    if not worst <= EMITTED:
        raise RewriteError(
            f"a part of the emitted graph differs by {worst:.3g} from what torch answers, beyond "
            f"the tolerance of {EMITTED:g}"
        )
    nodes = len(graph.nodes)
    return PassReport("emit", nodes, nodes, worst, EMITTED, kept=True)


def _beside_torch(part: _Part, graph: Graph, seen: Sequence[States]) -> Iterator[float]:
    """||a - b|| / ||b - x|| of each call, where torch makes b of x: what a layer adds to its states
    is compared, which may be much smaller than these."""
    end = _LOGITS if part.writes is None else END
    session = opened(part.of(graph))
    for feed, each in zip(part.feeds(seen), seen, strict=True):
        for number, (given, made) in enumerate(calls(session, feed)):
            states = (each.prompt, each.following)[number]
            wanted = each.logits if part.writes is None else states[part.writes]
            added = wanted
            if part.reads is not None and part.writes is not None:
                added = wanted - states[part.reads]
            values = {"got": made[end], "wanted": wanted, "added": added}
            values = without_padding(values, given)
            off = float(np.linalg.norm(values["got"] - values["wanted"]))
            yield off / max(float(np.linalg.norm(values["added"])), 1e-12)


def _alike(old: Graph, new: Graph) -> bool:
    """Whether two parts have the same nodes."""
    return [node.SerializeToString() for node in old.nodes] == [
        node.SerializeToString() for node in new.nodes
    ]
