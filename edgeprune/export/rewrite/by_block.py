"""Rewrite the graph of a model that is too large to be run as a whole, and compare it part by part.

    ids ─> [embeddings] ─> states ─> [layer 0] ─> ... ─> [layer n] ─> states ─> [head] ─> logits

A part is cut out of the graph that ships, with its cache. The emitted part is given torch's states
and must answer with torch's next ones, for a batch and for one token more; after each pass, it is
compared with the same part before it, as rewrite/run.py compares whole graphs. One part after the
other, since its float32 weights are written for the sessions. So each part is
right wherever it stands; that parts are joined right, the first two layers show, which are
compared with torch as a whole (stage.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.base.progress import track
from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry, Format
from edgeprune.export.emit.reference import States
from edgeprune.export.graph import BEGIN, END, Graph
from edgeprune.export.rewrite.linears import find_linears
from edgeprune.export.rewrite.outputs import Feed, Outputs
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
    largest_drift,
    mean_drift,
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
    emission = Pass("emit", lambda graph: len(graph.nodes), EMITTED)
    steps = [emission, *passes_for(anatomy, quantized, target, emitted=True)]
    versions, changed = [], []
    for step in steps:
        changed.append(step.change(graph))
        versions.append(graph.snapshot())
    entries = list(quantized.plan) if quantized else []
    moves = [_Move(step) for step in steps]
    parts = parts_of(anatomy)
    for part in track(parts, "comparing parts", len(parts)):
        _compare(part, versions, entries, seen, moves)
    graph.save(output)
    return [
        move.report(count, len(version.nodes))
        for move, count, version in zip(moves, changed, versions, strict=True)
    ]


@dataclass
class _Move:
    """The largest drift of a pass in the parts that were compared so far."""

    step: Pass
    drift: float = 0.0
    rounding: float | None = None

    def saw(self, drift: float) -> None:
        """Note a part's drift.

        Raises:
            RewriteError: it is beyond the pass's tolerance.
        """
        if not drift <= self.step.tolerance:
            raise RewriteError(
                f"the pass {self.step.name!r} differs by {drift:.3g} from what was planned in a "
                f"part of the model, beyond its tolerance of {self.step.tolerance:g}"
            )
        self.drift = max(self.drift, drift)

    def report(self, changed: int, nodes: int) -> PassReport:
        """The report of the pass, once all parts were seen."""
        step = self.step
        return PassReport(
            step.name, changed, nodes, self.drift, step.tolerance, True, rounding=self.rounding
        )


def _compare(
    part: _Part,
    versions: Sequence[Graph],
    entries: Sequence[Entry],
    seen: Sequence[States],
    moves: Sequence[_Move],
) -> None:
    """Compare one part as it was emitted with torch, and after each pass with what it was before.

    Args:
        versions: the whole graph as it was emitted, and after each pass.
        moves: of the emission and of each pass; brought up to date.
    """
    plain, feeds = part.of(versions[0]), part.feeds(seen)
    before, answers = plain, run_graph(plain, feeds)
    for drift in _beside_torch(part, answers, seen):
        moves[0].saw(drift)
    lowered: set[Format] = set()
    for version, move in zip(versions[1:], moves[1:], strict=True):
        step, now = move.step, part.of(version)
        lowered |= set(step.lowers)
        if _alike(before, now):
            continue
        made = run_graph(now, feeds)
        if step.lowers:
            linears = find_linears(plain, [entry.name for entry in entries])
            own = [each for each in entries if each.name in linears and each.format in lowered]
            move.saw(at_seams(plain, now, own, feeds, step.kernels))
            move.rounding = max(move.rounding or 0.0, mean_drift(answers, made))
        else:
            move.saw((mean_drift if step.quantizes else largest_drift)(answers, made))
        before, answers = now, made


def _beside_torch(part: _Part, answers: Outputs, seen: Sequence[States]) -> Iterator[float]:
    """||a - b|| / ||b - x|| of a batch and of one token more, where torch makes b of x: what a
    layer adds to its states is compared, which may be much smaller than these."""
    wanted: dict[str, tuple[np.ndarray, np.ndarray | None]]
    for made, each in zip(answers, seen, strict=True):
        if part.writes is None:
            wanted = {_LOGITS: (each.logits, None)}
        elif part.reads is None:
            wanted = {END: (each.prompt[0], None)}
        else:
            wanted = {
                name: (states[part.writes], states[part.reads])
                for name, states in ((END, each.prompt), (f"next_{END}", each.following))
            }
        for name, (after, before) in wanted.items():
            values = {
                "off": made[name] - after,
                "added": after if before is None else after - before,
            }
            if part.reads is not None and not name.startswith("next_"):
                values = without_padding(values, each.batch)
            off, added = (float(np.linalg.norm(values[key])) for key in ("off", "added"))
            yield off / max(added, 1e-12)


def _alike(old: Graph, new: Graph) -> bool:
    """Whether two parts have the same nodes."""
    return [node.SerializeToString() for node in old.nodes] == [
        node.SerializeToString() for node in new.nodes
    ]
