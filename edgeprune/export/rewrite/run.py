"""Rewrite an exported graph for the target: pass after pass, each compared with its input."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune import kernels
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say, track
from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import GROUPED, SPARSE, Entry, Format
from edgeprune.export.rewrite.attention import lay_out_attention
from edgeprune.export.rewrite.constants import fold_constants
from edgeprune.export.rewrite.embeddings import lower_embeddings
from edgeprune.export.rewrite.graph import Graph
from edgeprune.export.rewrite.grouped_attention import fuse_attention
from edgeprune.export.rewrite.groups import lower_groups
from edgeprune.export.rewrite.int8 import lower_linears
from edgeprune.export.rewrite.last_logits import choose_logits
from edgeprune.export.rewrite.packed_attention import pack_attention
from edgeprune.export.rewrite.quantized_cache import quantize_cache
from edgeprune.export.rewrite.residual import residuals_as_sums
from edgeprune.export.rewrite.seams import seam_drift
from edgeprune.export.rewrite.sparse import lower_sparse_linears
from edgeprune.export.rewrite.verify import Feed, largest_drift, mean_drift, run_graph
from edgeprune.model.anatomy import Anatomy
from edgeprune.targets import Target

_ORDER_OF_SUMS = 5e-3
"""At a seam, where 4e-7 (all-MiniLM-L6-v2) to 2e-4 (all-mpnet-base-v2, values on the edge of two
codes) are found, and a fault makes 0.05 and more; rounding moves the outputs by some 0.1."""
_OWN_ROUNDING = 0.02
"""The runtime's product in groups rounds the activations itself, on some processors not at all."""
_CACHE_ROUNDING = 0.5
"""Of the outputs, by a cache in integers: beyond it the model needs more bits."""


class RewriteError(Exception):
    """A lowering that the plan needs does other than was planned; nothing may be shipped."""


@dataclass(frozen=True)
class Pass:
    """One change of the graph, and how far it may move the outputs."""

    name: str
    change: Callable[[Graph], int]
    tolerance: float
    """Largest drift accepted, relative to an output's root mean square."""
    required: bool = False
    quantizes: bool = False
    """Values are rounded, so that the outputs as a whole are compared, not value by value."""
    lowers: Collection[Format] = ()
    """Linears of these formats come to read rounded inputs, so that seams are compared."""
    kernels: bool = False
    """Writes operators of edgeprune.kernels: where these are installed, compared with them too."""
    instead_of: str | None = None
    """A pass that makes this one idle where it was kept."""


@dataclass(frozen=True)
class PassReport:
    """What a pass did."""

    name: str
    changed: int
    nodes: int
    """Nodes in the graph afterwards."""
    drift: float
    """By how much it did other than was planned."""
    tolerance: float
    kept: bool
    reason: str = ""
    rounding: float | None = None
    """How far the rounding that was planned moved the outputs, as a whole."""

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for the manifest."""
        return asdict(self)


def passes_for(anatomy: Anatomy, quantized: Quantized | None, target: Target) -> list[Pass]:
    """The passes for a model, in order."""
    passes = [Pass("fold constants", fold_constants, 1e-4)]
    if anatomy.has_cache:
        passes.append(Pass("fuse attention", lambda graph: fuse_attention(graph, anatomy), 1e-3))
    if anatomy.causal and anatomy.head:
        passes.append(Pass("choose logits", lambda graph: choose_logits(graph, anatomy), 1e-5))
    passes.append(
        Pass(
            "lay out attention",
            lambda graph: lay_out_attention(graph, anatomy),
            1e-3,
            instead_of="fuse attention",
        )
    )
    if target.skip_layer_norm_harmful:
        passes.append(Pass("residuals as sums", residuals_as_sums, 1e-3))
    if quantized is not None and quantized.plan.quantized:
        passes += [
            Pass(
                "int8 embeddings",
                lambda graph: lower_embeddings(graph, quantized),
                1e-3,
                required=True,
            ),
        ]
        formats = {entry.format for entry in quantized.plan}
        passes += [step for step in _lowerings(quantized) if formats & set(step.lowers)]
        if anatomy.has_cache:
            passes.append(Pass("pack attention", pack_attention, 1e-3))
    return passes


def _lowerings(quantized: Quantized) -> list[Pass]:
    """The passes that write products of integers, each with the formats that it is for."""
    return [
        Pass(
            "int8 linears",
            lambda graph: lower_linears(graph, quantized),
            _ORDER_OF_SUMS,
            required=True,
            lowers=("int8", "int8-token"),
        ),
        Pass(
            "products in groups",
            lambda graph: lower_groups(graph, quantized),
            _OWN_ROUNDING,
            required=True,
            lowers=GROUPED,
        ),
        Pass(
            "sparse linears",
            lambda graph: lower_sparse_linears(graph, quantized),
            _ORDER_OF_SUMS,
            required=True,
            lowers=tuple(SPARSE),
            kernels=True,
        ),
    ]


def rewrite(
    source: Path,
    output: Path,
    anatomy: Anatomy,
    quantized: Quantized | None,
    batches: Sequence[Feed],
    target: Target,
    cache_bits: float | None = None,
) -> list[PassReport]:
    """Rewrite the graph at `source` into `output`.

    Args:
        quantized: the plan and its values; None leaves every weight as it is.
        batches: real text as input_ids and attention_mask, on which each pass is checked.
        cache_bits: of a decoder's key-value cache, as quantized_cache.py has them; None leaves it
            in float32.

    Returns:
        A report of every pass, those that were undone included.

    Raises:
        UserError: a lowering that the plan needs is not possible on the graph of this model, or
            a cache in integers moves its outputs too far.
        RewriteError: it does other than was planned.
    """
    graph = Graph.load(source)
    before = run_graph(graph, batches)
    passes = passes_for(anatomy, quantized, target)
    if cache_bits is not None:  # last: what follows would see a cache of integers
        passes.append(
            Pass(
                "quantize cache",
                lambda graph: quantize_cache(graph, batches, cache_bits),
                _CACHE_ROUNDING,
                required=True,
                quantizes=True,
            )
        )
    reports: list[PassReport] = []
    plain: Graph | None = None
    lowered: set[Format] = set()
    for step in track(passes, "rewrite", len(passes)):
        if any(report.name == step.instead_of and report.kept for report in reports):
            continue
        saved, rounding = graph.snapshot(), None
        try:
            changed = step.change(graph)
            after = run_graph(graph, batches) if changed else before
            if step.lowers and quantized is not None:
                plain, lowered = plain or saved, lowered | set(step.lowers)
                entries = [entry for entry in quantized.plan if entry.format in lowered]
                drift = _at_seams(plain, graph, entries, batches, step.kernels)
                rounding = mean_drift(before, after)
            else:
                drift = (mean_drift if step.quantizes else largest_drift)(before, after)
            reason = "" if drift <= step.tolerance else "the outputs drift too far"
        except Exception as error:
            if step.required and isinstance(error, ValueError):
                raise UserError(f"The graph of this model cannot be lowered: {error}.") from error
            if step.required:
                raise RewriteError(f"the pass {step.name!r} failed: {error}") from error
            changed, drift, reason = 0, 0.0, f"not possible here: {error}"
        if reason and step.required and step.quantizes:
            raise UserError(
                f"The pass {step.name!r} would move this model's outputs by {drift:.2g} of their "
                f"size, and {step.tolerance:g} is the most that is built: ask for more bits, or "
                "leave it out."
            )
        if reason and step.required:
            raise RewriteError(
                f"the pass {step.name!r} differs by {drift:.3g} from what was planned, "
                f"beyond its tolerance of {step.tolerance:g}"
            )
        if reason:
            say(f"  {step.name}: undone, {reason}")
            graph = saved
        else:
            before = after
        nodes, kept = len(graph.nodes), not reason
        reports.append(
            PassReport(step.name, changed, nodes, drift, step.tolerance, kept, reason, rounding)
        )
    graph.save(output)
    return reports


def _at_seams(
    plain: Graph,
    graph: Graph,
    entries: Sequence[Entry],
    batches: Sequence[Feed],
    library: bool,
) -> float:
    """Drift at the seams, by functions and, where it is installed, by the operator library."""
    drift = seam_drift(plain, graph, entries, batches)
    if library and kernels.installed():
        drift = max(drift, seam_drift(plain, graph, entries, batches, kernels=True))
    return drift
