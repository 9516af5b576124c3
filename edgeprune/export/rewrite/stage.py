"""The rewrite stage: lower the plan and rewrite the graph into a bundle's folder."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgeprune.compress.context import Context
from edgeprune.compress.quantize.model import Quantized
from edgeprune.export.client_files import ONNX, copy_client_files
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import padded_prompts, states, torch_outputs
from edgeprune.export.exported_model import write_export_manifest
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.by_block import rewrite_by_block
from edgeprune.export.rewrite.outputs import Feed, Outputs
from edgeprune.export.rewrite.record import Pass, Rewritten
from edgeprune.export.rewrite.run import Emitted, PassReport, Writer, as_torch, rewrite
from edgeprune.export.rewrite.verify import run_graph
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.store import load_model, write_layers
from edgeprune.targets import Target
from edgeprune.text.batches import Batch

_CHECKED_TOKENS = 256
"""Of each of two batches that every pass is compared on."""
_CACHED_TOKENS = 512
"""Of each of two batches that a quantized cache's scales are taken from."""
_SHORT = 32
"""Tokens of a text in the batch of many."""
_WHOLE_LAYERS = 2
"""Layers of a streamed model that are compared as a whole."""


def run(context: Context, source: Path, target: Path, settings: None) -> Rewritten:
    """Rewrite the model's graph; write it with tokenizer and configuration into `target`.

    A traced graph is read from `source`, and so is optimum's; an emitted one is written here, as
    its weights are then read from the model's files where they are needed.
    """
    plan = context.folders.get("quantize")
    quantized = Quantized.load(plan) if plan else None
    texts = context.some(2)
    batches = checked(texts)
    copy_client_files(context, context.model, target)
    (target / ONNX).mkdir(parents=True, exist_ok=True)
    if context.streamed:
        reports = _rewrite_streamed(context, target, quantized, batches)
    else:
        reports = _rewrite_whole(context, source, target, quantized, texts)
    write_export_manifest(target, context.checkpoint)
    return Rewritten(passes=[Pass.from_values(report.to_json()) for report in reports])


def _rewrite_whole(
    context: Context,
    source: Path,
    target: Path,
    quantized: Quantized | None,
    texts: Sequence[Batch],
) -> list[PassReport]:
    traced, batches = source / ONNX / "model.onnx", checked(texts)
    asked, by = context.settings.get("quantize"), context.settings["export"].by
    start = None if by == "optimum" else emitted_graph(context.model, context.target, batches)
    return rewrite(
        start
        or exported_graph(
            traced, context.model, batches, "optimum" if by == "optimum" else "trace"
        ),
        target / ONNX / "model.onnx",
        open_checkpoint(str(context.model)).anatomy,
        quantized,
        batches,
        context.target,
        asked.cache_bits if asked else None,
        [_rows(batch.inputs, _CACHED_TOKENS) for batch in texts],
    )


def _rewrite_streamed(
    context: Context, target: Path, quantized: Quantized | None, batches: Sequence[Feed]
) -> list[PassReport]:
    """Compare two layers of the model with torch as a whole, rewrite all of it part by part."""
    feeds = [
        {name: values[:rows] for name, values in batch.items()}
        for batch, rows in zip(batches, (1, 4), strict=True)
    ]
    with TemporaryDirectory(prefix="edgeprune-", dir=target) as scratch:
        write_layers(context.model, Path(scratch), _WHOLE_LAYERS)
        few = emitted_graph(Path(scratch), context.target, feeds)
        assert few is not None
        as_torch(few, run_graph(few.graph, [*feeds, *few.prompts]))
    graph = emitted(context.model, context.target.skip_layer_norm_harmful)
    assert graph is not None
    model = load_model(context.model)
    seen = states(model, feeds)
    anatomy = model.anatomy
    del model
    path = target / ONNX / "model.onnx"
    return rewrite_by_block(graph, path, anatomy, quantized, seen, context.target)


def checked(batches: Sequence[Batch]) -> list[Feed]:
    """Batches on which every pass is compared: whole texts of the first batch, at least one, and
    the beginnings of many of the second, shorter from row to row, so that there is padding."""
    whole, many = batches
    short = _rows({name: value[:, :_SHORT] for name, value in many.inputs.items()}, _CHECKED_TOKENS)
    count, length = short["input_ids"].shape
    left = length - np.arange(count) * length // (count + 1)
    mask = short["attention_mask"] * (np.arange(length) < left[:, None])
    return [_rows(whole.inputs, _CHECKED_TOKENS), {**short, "attention_mask": mask}]


def _rows(feed: Feed, tokens: int) -> Feed:
    """A batch's first texts, of `tokens` tokens together; at least one."""
    rows = max(1, tokens // feed["input_ids"].shape[1])
    return {name: values[:rows] for name, values in feed.items()}


def emitted_graph(folder: Path, target: Target, batches: Sequence[Feed]) -> Emitted | None:
    """The graph of the model in `folder` and what torch answers on the batches; None where it has
    to be traced."""
    graph = emitted(folder, target.skip_layer_norm_harmful)
    if graph is None:
        return None
    return Emitted(graph, *_answered(folder, batches))


def exported_graph(file: Path, folder: Path, batches: Sequence[Feed], by: Writer) -> Emitted:
    """The graph that an exporter wrote of the model in `folder`, to be compared likewise."""
    return Emitted(Graph.load(file), *_answered(folder, batches), by=by)


def _answered(folder: Path, batches: Sequence[Feed]) -> tuple[Outputs, list[Feed]]:
    """The answers of torch on the batches and then on a decoder's padded prompts; and those."""
    model = load_model(folder)
    prompts = padded_prompts(batches) if model.anatomy.generates else []
    return torch_outputs(model, [*batches, *prompts]), prompts
