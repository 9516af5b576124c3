"""The rows of the stages that write a graph: the original's, and the compressed model's."""

from collections.abc import Mapping
from typing import Any

from edgeprune.base.words import size
from edgeprune.compress.stage import Stage


def _told(did: Mapping[str, Any]) -> list[str]:
    return [f"plain float32 ONNX of {size(did['bytes'])}"]


ORIGINAL = Stage(
    "original",
    "edgeprune.export.stage:original",
    gives=None,
    always=True,
    would=lambda settings, facts: ["exported plainly to float32 ONNX, as the reference"],
    told=_told,
)
EXPORT = Stage("export", "edgeprune.export.stage:export", gives="graph", always=True, told=_told)
