"""What a bundle's sparse linears were predicted to take, what they take, and what they gain."""

from pathlib import Path
from typing import Any

from edgeprune.compress.quantize.plan import SPARSE
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.kernels.formats import is_operator
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings


def measure_sparse(
    source: Path,
    plan: dict[str, Any],
    planned_for: QuantizeSettings,
    bench: BenchSettings,
) -> dict[str, Any] | None:
    """Run a bundle with the operator library beside itself without it.

    Args:
        plan: as the quantize stage left it in the manifest.

    Returns:
        None where the plan has no sparse linear. Else "linears", how many; "predicted_us" and
        "dense_predicted_us", of all of them in one call, by the target's table (None: unmeasured)
        for "predicted_rows"; "instruction_set", None where the library is not installed. Where it
        is: "measured_us" of all of them, by the runtime's profile, for "measured_rows"; and
        "over_stock", how many times faster the whole call is than without the library.
    """
    entries = [entry for entry in plan["entries"] if entry["format"] in SPARSE]
    if not entries:
        return None
    found: dict[str, Any] = {
        "linears": len(entries),
        "predicted_rows": planned_for.tokens * planned_for.batch,
        "predicted_us": _sum(entries, "predicted_us"),
        "dense_predicted_us": _sum(entries, "dense_us"),
        "instruction_set": system_facts()["chosen"],
    }
    if found["instruction_set"] is None:
        return found
    profiled = bench.model_copy(update={"profile": True})
    result = compare(source, f"stock:{source}", profiled)
    kind, times = next(iter(result["measures"].items()))
    operators = result["profile"][kind]["candidate"]["operators"]
    measured = sum(sums["ms"] for name, sums in operators.items() if is_operator(name))
    return found | {
        "measured_rows": bench.tokens * bench.batch,
        "measured_us": measured * 1000,
        "over_stock": times["ratio"],
    }


def _sum(entries: list[dict[str, Any]], key: str) -> float | None:
    values = [entry[key] for entry in entries]
    return None if None in values else sum(values)
