"""Rewrite an exported graph for the target: pass after pass, each compared with its input."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune import kernels
from edgeprune.anatomy import Anatomy
from edgeprune.progress import say, track
from edgeprune.quantize.model import Quantized
from edgeprune.quantize.plan import GROUPED, SPARSE
from edgeprune.rewrite.attention import lay_out_attention
from edgeprune.rewrite.constants import fold_constants
from edgeprune.rewrite.embeddings import lower_embeddings
from edgeprune.rewrite.graph import Graph
from edgeprune.rewrite.grouped_attention import fuse_attention
from edgeprune.rewrite.groups import lower_groups
from edgeprune.rewrite.int8 import lower_linears
from edgeprune.rewrite.last_logits import choose_logits
from edgeprune.rewrite.packed_attention import pack_attention
from edgeprune.rewrite.quantized_cache import quantize_cache
from edgeprune.rewrite.residual import residuals_as_sums
from edgeprune.rewrite.sparse import lower_sparse_linears
from edgeprune.rewrite.verify import Feed, largest_drift, mean_drift, run_graph
from edgeprune.targets import Target


class RewriteError(Exception):
    """A lowering that the plan needs failed or drifted; nothing may be shipped."""


@dataclass(frozen=True)
class Pass:
    """One change of the graph, and how far it may move the outputs."""

    name: str
    change: Callable[[Graph], int]
    tolerance: float
    """Largest drift accepted, relative to an output's root mean square."""
    required: bool = False
    quantizes: bool = False
    """Activations are rounded, so that the outputs as a whole are compared, not value by value."""
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
    tolerance: float
    kept: bool
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for the manifest."""
        return asdict(self)


def passes_for(anatomy: Anatomy, quantized: Quantized | None, target: Target) -> list[Pass]:
    """The passes for a model, in order."""
    passes = [Pass("fold constants", fold_constants, 1e-4)]
    if anatomy.kind == "decoder":
        passes += [
            Pass("fuse attention", lambda graph: fuse_attention(graph, anatomy), 1e-3),
            Pass("choose logits", lambda graph: choose_logits(graph, anatomy), 1e-5),
        ]
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
            Pass(
                "int8 linears",
                lambda graph: lower_linears(graph, quantized),
                0.5,
                required=True,
                quantizes=True,
            ),
        ]
        if any(entry.format in GROUPED for entry in quantized.plan):
            passes.append(
                Pass(
                    "products in groups",
                    lambda graph: lower_groups(graph, quantized),
                    0.5,
                    required=True,
                    quantizes=True,
                )
            )
        if any(entry.format in SPARSE for entry in quantized.plan):
            passes.append(
                Pass(
                    "sparse linears",
                    lambda graph: lower_sparse_linears(graph, quantized),
                    0.5,
                    required=True,
                    quantizes=True,
                    kernels=True,
                )
            )
        if anatomy.kind == "decoder":
            passes.append(Pass("pack attention", pack_attention, 1e-3))
    return passes


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
        RewriteError: a lowering that the plan needs is not possible or moves the outputs too far.
    """
    graph = Graph.load(source)
    before = run_graph(graph, batches)
    passes = passes_for(anatomy, quantized, target)
    if cache_bits is not None:  # last: what follows would see a cache of integers
        passes.append(
            Pass(
                "quantize cache",
                lambda graph: quantize_cache(graph, batches, cache_bits),
                0.5,
                quantizes=True,
            )
        )
    reports: list[PassReport] = []
    for step in track(passes, "rewrite", len(passes)):
        if any(report.name == step.instead_of and report.kept for report in reports):
            continue
        saved = graph.snapshot()
        try:
            changed = step.change(graph)
            after = run_graph(graph, batches) if changed else before
            drift_of = mean_drift if step.quantizes else largest_drift
            drift = drift_of(before, after)
            if changed and step.kernels and kernels.installed():
                drift = max(drift, drift_of(before, run_graph(graph, batches, kernels=True)))
            reason = "" if drift <= step.tolerance else "the outputs drift too far"
        except Exception as error:
            if step.required:
                raise RewriteError(f"the pass {step.name!r} failed: {error}") from error
            changed, drift, reason = 0, 0.0, f"not possible here: {error}"
        if reason and step.required:
            raise RewriteError(
                f"the pass {step.name!r} moved the outputs by {drift:.3g}, "
                f"beyond its tolerance of {step.tolerance:g}"
            )
        if reason:
            say(f"  {step.name}: undone, {reason}")
            graph = saved
        else:
            before = after
        reports.append(
            PassReport(
                step.name, changed, len(graph.nodes), drift, step.tolerance, not reason, reason
            )
        )
    graph.save(output)
    return reports
