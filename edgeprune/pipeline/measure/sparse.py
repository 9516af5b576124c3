"""The time of a bundle's sparse linears as predicted and as measured, and their gain."""

from pathlib import Path
from typing import Any

from edgeprune.compress.quantize.plan import SPARSE
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.kernels.formats import is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.record import Profile
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.record import Sparse


def measure_sparse(
    source: Path,
    plan: dict[str, Any],
    planned_for: QuantizeSettings,
    bench: BenchSettings,
) -> Sparse | None:
    """Run a bundle with the operator library beside itself without it; None where the plan has no
    sparse linear.

    Args:
        plan: as the quantize stage left it in the manifest.
    """
    entries = [entry for entry in plan["entries"] if entry["format"] in SPARSE]
    if not entries:
        return None
    found = Sparse(
        linears=len(entries),
        predicted_rows=planned_for.tokens * planned_for.batch,
        predicted_us=_sum(entries, "predicted_us"),
        dense_predicted_us=_sum(entries, "dense_us"),
        instruction_set=system_facts()["chosen"],
    )
    if found.instruction_set is None:
        return found
    profiled = bench.model_copy(update={"profile": True})
    result = compare(source, f"stock:{source}", profiled)
    work, times = next(iter(result.measures.items()))
    profile = (result.profile or {})[work]["candidate"]
    assert isinstance(profile, Profile)  # of ONNX Runtime, which tells it
    measured = sum(spent.ms for name, spent in profile.operators.items() if is_operator(name))
    return found.model_copy(
        update={
            "measured_rows": bench.tokens * bench.batch,
            "measured_us": measured * 1000,
            "over_stock": times.ratio,
        }
    )


def _sum(entries: list[dict[str, Any]], key: str) -> float | None:
    values = [entry[key] for entry in entries]
    return None if None in values else sum(values)
