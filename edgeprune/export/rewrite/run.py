"""Rewrite a graph for the target: pass after pass, each compared with its input.

A graph is traced, or emitted in the form that the first passes would leave of a trace, and then
compared with what torch answers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgeprune import kernels
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say, track
from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import GROUPED, QUANT, SPARSE, Entry, Format
from edgeprune.compress.quantize.settings import HALF_BITS
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.attention import lay_out_attention
from edgeprune.export.rewrite.constants import fold_constants
from edgeprune.export.rewrite.embeddings import lower_embeddings
from edgeprune.export.rewrite.grouped_attention import fuse_attention
from edgeprune.export.rewrite.groups import lower_groups
from edgeprune.export.rewrite.half_cache import halve_cache
from edgeprune.export.rewrite.int8 import lower_linears
from edgeprune.export.rewrite.last_logits import choose_logits
from edgeprune.export.rewrite.linears import check_turns
from edgeprune.export.rewrite.outputs import Feed, Outputs
from edgeprune.export.rewrite.packed_attention import pack_attention
from edgeprune.export.rewrite.quant_fusions import fuse_quant_linears
from edgeprune.export.rewrite.quant_linears import lower_quant_linears
from edgeprune.export.rewrite.quantized_cache import quantize_cache
from edgeprune.export.rewrite.residual import residuals_as_sums
from edgeprune.export.rewrite.row_attention import take_row_attention
from edgeprune.export.rewrite.seams import seam_drift, step_drift
from edgeprune.export.rewrite.sparse import lower_sparse_linears
from edgeprune.export.rewrite.verify import largest_drift, mean_drift, run_graph
from edgeprune.model.anatomy import Anatomy
from edgeprune.targets import Target

_ORDER_OF_SUMS = 5e-3
"""At a seam: above the drift by the order of sums, below that of a fault (benchmarks/README.md,
"seams")."""
_OWN_ROUNDING = 0.02
"""The runtime's product in groups rounds the activations itself, or on some processors not."""
EMITTED = 1e-4
"""The largest drift of an emitted graph from torch, as large as what folding a trace may do.
Float32 sums in another order give 1e-5 on MiniLM (benchmarks/README.md, "Emitted graphs")."""
_CACHE_ROUNDING = 0.5
"""Drift of the outputs by a cache in integers; beyond it the model needs more bits."""


class RewriteError(Exception):
    """A graph differs from its model, or a lowering from the plan; nothing may be shipped."""


Writer = Literal["emit", "trace", "optimum"]
_WRITTEN: Mapping[Writer, str] = {"emit": "emitted", "trace": "traced", "optimum": "exported"}


@dataclass(frozen=True)
class Emitted:
    """A graph as it was written, and what it must answer."""

    graph: Graph
    reference: Outputs
    """The torch model's outputs on the batches, then on `prompts`."""
    prompts: Sequence[Feed] = ()
    """Batches more on which the two are compared."""
    by: Writer = "emit"
    """Its writer: an emitter, in the form that the first passes would leave of a trace, our tracer,
    or optimum's exporter, which traces, too."""


@dataclass(frozen=True)
class Pass:
    """A change of the graph, and how far it may move the outputs."""

    name: str
    change: Callable[[Graph], int]
    tolerance: float
    """Largest drift accepted, relative to an output's root mean square."""
    required: bool = False
    quantizes: bool = False
    """Values are rounded, so outputs are compared as a whole, not value by value."""
    lowers: Collection[Format] = ()
    """Linears of these formats now read rounded inputs, so seams are compared."""
    kernels: bool = False
    """Writes operators of edgeprune.kernels; compared with them too if they are installed."""
    instead_of: str | None = None
    """A pass that, if kept, makes this one unnecessary."""


@dataclass(frozen=True)
class PassReport:
    """The result of a pass."""

    name: str
    changed: int
    nodes: int
    """Nodes in the graph afterwards."""
    drift: float
    """The drift of the result from the plan."""
    tolerance: float
    kept: bool
    reason: str = ""
    rounding: float | None = None
    """The drift of the outputs by the planned rounding, as a whole."""

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for the manifest."""
        return asdict(self)


def passes_for(
    anatomy: Anatomy,
    quantized: Quantized | None,
    target: Target,
    emitted: bool = False,
    quantized_cache: bool = False,
) -> list[Pass]:
    """The passes for a model, in order; an emitted graph needs fewer. A cache in integers has the
    runtime's attention."""
    passes = [] if emitted else _traced_passes(anatomy, target)
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
        passes += [step for step in _lowerings(quantized, target) if formats & set(step.lowers)]
        if formats & set(QUANT.values()):
            passes.append(
                Pass(
                    "fuse linears",
                    fuse_quant_linears,
                    _ORDER_OF_SUMS,
                    kernels=True,
                )
            )
        if anatomy.has_cache:
            passes.append(Pass("pack attention", pack_attention, 1e-3))
        if formats & set(QUANT.values()) and not quantized_cache:
            passes.append(Pass("row attention", take_row_attention, _ORDER_OF_SUMS, kernels=True))
    return passes


def _traced_passes(anatomy: Anatomy, target: Target) -> list[Pass]:
    """The passes that give a trace the form that is lowered."""
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
    return passes


def _lowerings(quantized: Quantized, target: Target) -> list[Pass]:
    """The passes that write integer products, each with its formats."""
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
        Pass(
            "quantized linears",
            lambda graph: lower_quant_linears(graph, quantized, target.vnni),
            _ORDER_OF_SUMS,
            required=True,
            lowers=tuple(QUANT.values()),
            kernels=True,
        ),
    ]


def rewrite(
    source: Path | Emitted,
    output: Path,
    anatomy: Anatomy,
    quantized: Quantized | None,
    batches: Sequence[Feed],
    target: Target,
    cache_bits: float | None = None,
    cache_batches: Sequence[Feed] | None = None,
) -> list[PassReport]:
    """Rewrite a graph into `output`.

    Args:
        source: the file of a traced graph, or an emitted one.
        quantized: the plan and its values; None leaves every weight as it is.
        batches: real text as input_ids and attention_mask, to check each pass on.
        cache_bits: bits of a decoder's key-value cache, see quantized_cache.py, and half_cache.py
            for 16; None leaves it in float32.
        cache_batches: more text, from which such a cache's scales are taken; None: the batches.

    Returns:
        A report of every pass, including undone ones.

    Raises:
        UserError: a lowering that the plan needs is not possible on this model's graph, a cache in
            integers moves its outputs too far, or optimum's graph answers otherwise than torch.
        RewriteError: an emitted graph answers otherwise than torch, or a lowering differs from the
            plan.
    """
    emitted = source if isinstance(source, Emitted) else None
    graph = Graph.load(source) if isinstance(source, Path) else source.graph
    before = run_graph(graph, [*batches, *(emitted.prompts if emitted else ())])
    reports = [as_torch(emitted, before)] if emitted else []
    before = before[: len(batches)]
    written = emitted is not None and emitted.by == "emit"
    integers = cache_bits is not None and cache_bits < HALF_BITS
    passes = passes_for(anatomy, quantized, target, written, integers)
    if cache_bits is not None:  # last: later passes would see a cache of another type
        passes.append(
            Pass(
                "quantize cache" if integers else "halve cache",
                lambda graph: (
                    quantize_cache(graph, cache_batches or batches, cache_bits)
                    if integers
                    else halve_cache(graph)
                ),
                _CACHE_ROUNDING,
                required=True,
                quantizes=True,
            )
        )
    plain: Graph | None = None
    lowered: set[Format] = set()
    for step in track(passes, "rewrite", len(passes)):
        if any(report.name == step.instead_of and report.kept for report in reports):
            continue
        saved, rounding = graph.snapshot(), None
        try:
            if step.lowers and quantized is not None:
                check_turns(graph, _in_blocks(anatomy, quantized, step.lowers), anatomy.repeats)
            changed = step.change(graph)
            after = run_graph(graph, batches) if changed else before
            if step.lowers and quantized is not None:
                plain, lowered = plain or saved, lowered | set(step.lowers)
                entries = [entry for entry in quantized.plan if entry.format in lowered]
                drift = at_seams(plain, graph, entries, batches, step.kernels)
                rounding = mean_drift(before, after)
            elif step.kernels:
                drift = over_steps(saved, graph, batches) if changed else 0.0
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


def _in_blocks(anatomy: Anatomy, quantized: Quantized, formats: Collection[Format]) -> list[str]:
    """The linears inside the blocks that are planned in one of these formats."""
    inside = anatomy.block_linears()
    return [each.name for each in quantized.plan if each.format in formats and each.name in inside]


def as_torch(emitted: Emitted, answers: Outputs) -> PassReport:
    """The report of what wrote a graph, which must answer as torch does."""
    # As a whole: where a massive activation is cancelled, a single value of SmolLM2's trace is 7e-4
    # from torch as well. Torch comes last, as a decoder's graph has its cache among its answers.
    drift, nodes = mean_drift(answers, emitted.reference), len(emitted.graph.nodes)
    if drift > EMITTED and emitted.by == "optimum":
        raise UserError(
            f"The graph that optimum's exporter wrote differs by {drift:.3g} from what torch "
            f"answers, beyond the tolerance of {EMITTED:g}: leave export.by out, and the graph is "
            "written here."
        )
    if drift > EMITTED:
        raise RewriteError(
            f"the {_WRITTEN[emitted.by]} graph differs by {drift:.3g} from what torch answers, "
            f"beyond the tolerance of {EMITTED:g}"
        )
    return PassReport(emitted.by, nodes, nodes, drift, EMITTED, kept=True)


def over_steps(before: Graph, after: Graph, batches: Sequence[Feed]) -> float:
    """Drift of single operators, by functions and, if installed, by the operator library."""
    drift = step_drift(before, after, batches)
    if kernels.installed():
        drift = max(drift, step_drift(before, after, batches, kernels=True))
    return drift


def at_seams(
    plain: Graph,
    graph: Graph,
    entries: Sequence[Entry],
    batches: Sequence[Feed],
    library: bool,
) -> float:
    """Drift at the seams, by functions and, if installed, by the operator library."""
    drift = seam_drift(plain, graph, entries, batches)
    if library and kernels.installed():
        drift = max(drift, seam_drift(plain, graph, entries, batches, kernels=True))
    return drift
