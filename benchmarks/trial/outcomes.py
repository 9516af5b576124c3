"""What a run says about stability, from its trajectory of mask updates and its loss curve."""

from collections.abc import Mapping, Sequence
from typing import Any

from trial.design import in_window

SPIKE_STEPS = 50


def loss_spike(curve: Mapping[int, float], updates: Sequence[int]) -> float:
    """The largest rise of the loss within SPIKE_STEPS after a mask update.

    From the last point at or before the update to the highest one after it. curve: step -> loss
    on the same undisturbed text.
    """
    rises = [0.0]
    for update in updates:
        before = [step for step in curve if step <= update]
        after = [loss for step, loss in curve.items() if update < step <= update + SPIKE_STEPS]
        if before and after:
            rises.append(max(after) - curve[max(before)])
    return max(rises)


def stability(
    trajectory: Sequence[Mapping[str, Any]], curve: Mapping[int, float], steps: int, window: int
) -> dict[str, float]:
    """Figures of one run.

    churn: units dropped or grown, over all updates, as a share of all units (without regrowth the
    sparsity itself). largest_update: the largest such share at one update. in_windows: share of
    what was dropped that went inside a window of disturbance. loss_spike: see there.
    """
    dropped = sum(row["dropped"] for row in trajectory)
    inside = sum(row["dropped"] for row in trajectory if in_window(row["step"], steps, window))
    return {
        "churn": sum(row["churn"] for row in trajectory),
        "largest_update": max(row["churn"] for row in trajectory),
        "in_windows": inside / dropped,
        "loss_spike": loss_spike(curve, [row["step"] for row in trajectory]),
    }
