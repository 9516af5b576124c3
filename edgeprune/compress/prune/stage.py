"""The prune stage: hands over to the method that the recipe names."""

from pathlib import Path
from typing import Any

from edgeprune.base.registry import load_function
from edgeprune.compress.context import Context
from edgeprune.compress.prune.methods import METHODS, AnyPruneSettings
from edgeprune.compress.prune.record import Pruned


def run(context: Context, source: Path, target: Path, settings: AnyPruneSettings) -> Pruned:
    """Prune the model in `source`; write it with its masks into `target`."""
    function = load_function(METHODS[settings.method].function)
    result: dict[str, Any] = function(context, source, target, settings)
    return Pruned.from_values({"method": settings.method, **result})
