"""What a run says about stability, from its trajectory of mask updates."""

from collections.abc import Mapping, Sequence
from typing import Any

from trial.design import Burst, burst_at


def stability(
    trajectory: Sequence[Mapping[str, Any]], windows: Sequence[Burst]
) -> dict[str, float]:
    """Figures of one run.

    inside: share of what was pruned that went inside a burst. largest_update: the largest share of
    all units that changed at one update.
    """
    dropped = sum(row["dropped"] for row in trajectory)
    inside = sum(row["dropped"] for row in trajectory if burst_at(row["step"], windows))
    return {
        "inside": inside / dropped,
        "largest_update": max(row["churn"] for row in trajectory),
    }
