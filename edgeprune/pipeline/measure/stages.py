"""Each stage between the original and the result: what it gained and what it cost."""

import shutil
from collections.abc import Collection
from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.export.settings import ExportSettings
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.record import MeasuredStage
from edgeprune.model.checkpoint import WEIGHTS
from edgeprune.pipeline.measure.question import Question

EXPORT = "export"


def measured_stages(wrote: Collection[str]) -> list[str]:
    """The stages whose models are measured, in order, before integers and the graph's rewriting
    change them; the export is last.

    What prune masks, cut removes exactly: the two answer alike, and cut stands for both. Without
    quantization the export is the last model itself.

    Args:
        wrote: those that wrote a model, in order.
    """
    left_out = {"load", "quantize", *(["prune"] if "cut" in wrote else [])}
    names = [name for name in wrote if name not in left_out]
    return [*(names if "quantize" in wrote else names[:-1]), EXPORT]


def measure_stages(
    context: Context, original: Path, scratch: Path, bench: BenchSettings, question: Question
) -> list[MeasuredStage]:
    """Time each stage's model, as plain float32 ONNX, beside the original, and ask its quality.

    Args:
        original: the original's export.
        scratch: a folder in which a stage's graph may stand for a while.
    """
    # Exporting needs the build install, and a dry run on a device imports this file.
    from edgeprune.export.stage import export

    found = []
    wrote = [name for name, folder in context.folders.items() if (folder / WEIGHTS).is_file()]
    for name in measured_stages(wrote):
        folder = context.folders[name]
        try:
            if name != EXPORT:
                folder = scratch / name
                export(context, context.folders[name], folder, ExportSettings())
            found.append(
                MeasuredStage(
                    name=name,
                    speed=compare(folder, original, bench),
                    quality=(question.ask(folder, original, parts=False),),
                )
            )
        finally:
            shutil.rmtree(scratch / name, ignore_errors=True)
    return found
