"""A picture of the heads and channels that every layer kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.report.canvas import ORIGINAL, RESULT, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def kept_sizes(
    name: str, what: str, kept: Sequence[int], before: Sequence[int] | None, layers: Sequence[int]
) -> str:
    """Bars of what each layer kept, before those of what it had.

    Args:
        what: heads or channels.
        kept: by layer that is left.
        before: by original layer; None where it was not recorded.
        layers: which original layers are left.
    """

    def paint(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        quiet_axes(axes)
        if before is not None:
            axes.bar(range(len(before)), before, 0.8, color=ORIGINAL, alpha=0.35, label="original")
        axes.bar(layers, kept, 0.8, color=RESULT, label="kept")
        total = f"{sum(kept):,}" + (f" of {sum(before):,}" if before else "")
        axes.set_title(f"{what}: {total} kept")
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        if before is not None:
            figure.legend(loc="outside lower left", ncols=2)

    return draw(name, f"{what} that every layer kept", 2.5, paint)
