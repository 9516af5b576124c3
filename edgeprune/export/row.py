"""The rows of the stages that write a graph: the original's, and the compressed model's."""

from edgeprune.base.words import size
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage
from edgeprune.export.record import Exported


def _would(settings: None, facts: Facts) -> list[str]:
    """What holds for models whose graph is traced, whatever their settings say."""
    checkpoint = facts.checkpoint
    family = checkpoint.anatomy.family
    if family.decoder or family.encoder:
        return []
    return [
        f"traced, as models of type {checkpoint.anatomy.model_type} are; they are quantized by "
        "rounding and run, and neither pruned, cut nor recovered"
    ]


def _told(did: Exported) -> list[str]:
    left = "" if did.written else ", which was not written"
    return [f"plain float32 ONNX of {size(did.bytes)}{left}"]


ORIGINAL = Stage(
    "original",
    "edgeprune.export.stage:original",
    Exported,
    gives=None,
    always=True,
    compares=True,
    would=lambda settings, facts: ["exported plainly to float32 ONNX, as the reference"],
    told=_told,
)
EXPORT = Stage(
    "export",
    "edgeprune.export.stage:export",
    Exported,
    gives="graph",
    always=True,
    whole=lambda settings: "",
    would=_would,
    told=_told,
)
