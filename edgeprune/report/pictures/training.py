"""The loss while a stage trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeprune.report.canvas import ORIGINAL, RESULT, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training(name: str, title: str, checks: Sequence[dict[str, Any]], best: int | None) -> str:
    """Loss of the batch and on held-out text at every check; a ring marks what was kept."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes)
        steps = [row["step"] for row in checks]
        axes.plot(
            steps, [row["loss"] for row in checks], ".--", color=ORIGINAL, label="training batch"
        )
        axes.plot(steps, [row["held_out"] for row in checks], "o-", color=RESULT, label="held out")
        for row in checks:
            if row["step"] == best:
                axes.plot(
                    row["step"], row["held_out"], "o", markersize=11, markerfacecolor="none",
                    color=RESULT, label="kept",
                )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("training step")
        figure.legend(loc="outside lower left", ncols=3)

    return draw(name, title, 2.6, paint)
