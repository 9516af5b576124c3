"""The settings of the export stage. No torch here."""

from typing import Literal

from pydantic import Field

from edgeprune.base.settings import Settings


class ExportSettings(Settings):
    """The exporter that writes the graph with which rewriting begins."""

    by: Literal["edgeprune", "optimum"] = Field(
        "edgeprune",
        description="What writes the graph; optimum's exporter runs in an environment of its own, "
        "whose Python the variable EDGEPRUNE_OPTIMUM names.",
    )
    minutes: float = Field(
        60.0, gt=0, le=10_000, description="Longest time that optimum's exporter may take."
    )
