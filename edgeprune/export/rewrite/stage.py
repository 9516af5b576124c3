"""The rewrite stage: lower the plan and rewrite the graph into a bundle's folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.compress.context import Context
from edgeprune.compress.quantize.model import Quantized
from edgeprune.export.client_files import ONNX, copy_client_files
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import padded_prompts, torch_outputs
from edgeprune.export.exported_model import write_export_manifest
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.outputs import Feed, Outputs
from edgeprune.export.rewrite.record import Pass, Rewritten
from edgeprune.export.rewrite.run import Emitted, rewrite
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.store import load_model
from edgeprune.targets import Target
from edgeprune.text.batches import Batch

_CHECKED_TOKENS = 256
"""Of each of two batches that every pass is compared on."""
_CACHED_TOKENS = 512
"""Of each of two batches that a quantized cache's scales are taken from."""
_SHORT = 32
"""Tokens of a text in the batch of many."""


def run(context: Context, source: Path, target: Path, settings: None) -> Rewritten:
    """Rewrite the model's graph; write it with tokenizer and configuration into `target`.

    A traced graph is read from `source`, and so is optimum's; an emitted one is written here, as
    its weights are then read from the model's files where they are needed.
    """
    plan = context.folders.get("quantize")
    quantized, asked = Quantized.load(plan) if plan else None, context.settings.get("quantize")
    texts = context.some(2)
    batches = checked(texts)
    traced, asks_optimum = source / ONNX / "model.onnx", context.settings["export"].by == "optimum"
    copy_client_files(context, context.model, target)
    (target / ONNX).mkdir(parents=True, exist_ok=True)
    reports = rewrite(
        optimum_graph(traced, context.model, batches)
        if asks_optimum
        else emitted_graph(context.model, context.target, batches) or traced,
        target / ONNX / "model.onnx",
        open_checkpoint(str(context.model)).anatomy,
        quantized,
        batches,
        context.target,
        asked.cache_bits if asked else None,
        [_rows(batch.inputs, _CACHED_TOKENS) for batch in texts],
    )
    write_export_manifest(target, context.checkpoint)
    return Rewritten(passes=[Pass.from_values(report.to_json()) for report in reports])


def checked(batches: Sequence[Batch]) -> list[Feed]:
    """What every pass is compared on: whole texts of the first batch, at least one; and of the
    second the beginnings of many, shorter from row to row, so that there is padding."""
    whole, many = batches
    short = _rows({name: value[:, :_SHORT] for name, value in many.inputs.items()}, _CHECKED_TOKENS)
    count, length = short["input_ids"].shape
    left = length - np.arange(count) * length // (count + 1)
    mask = short["attention_mask"] * (np.arange(length) < left[:, None])
    return [_rows(whole.inputs, _CHECKED_TOKENS), {**short, "attention_mask": mask}]


def _rows(feed: Feed, tokens: int) -> Feed:
    """A batch's first texts, of so many tokens together; at least one."""
    rows = max(1, tokens // feed["input_ids"].shape[1])
    return {name: values[:rows] for name, values in feed.items()}


def emitted_graph(folder: Path, target: Target, batches: Sequence[Feed]) -> Emitted | None:
    """The graph of the model in `folder` and what torch answers on the batches; None where it has
    to be traced."""
    graph = emitted(folder, target.skip_layer_norm_harmful)
    if graph is None:
        return None
    return Emitted(graph, *_answered(folder, batches))


def optimum_graph(file: Path, folder: Path, batches: Sequence[Feed]) -> Emitted:
    """The graph that optimum's exporter wrote of the model in `folder`, to be compared likewise."""
    return Emitted(Graph.load(file), *_answered(folder, batches), by="optimum")


def _answered(folder: Path, batches: Sequence[Feed]) -> tuple[Outputs, list[Feed]]:
    """What torch answers on the batches and then on a decoder's padded prompts; and those."""
    model = load_model(folder)
    prompts = padded_prompts(batches) if model.anatomy.head else []
    return torch_outputs(model, [*batches, *prompts]), prompts
