"""The cut stage: what pruning emptied leaves the shapes; more leaves in one shot where asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.compress.calibrate.gates import CHANNELS, HEADS, head_groups
from edgeprune.compress.context import Context
from edgeprune.compress.cut.block_search import search_blocks
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.compensate import cut_channels, keep_means
from edgeprune.compress.cut.depth import drop_layers, layer_scores
from edgeprune.compress.cut.experts import drop_experts, expert_scores
from edgeprune.compress.cut.record import Cut
from edgeprune.compress.cut.scores import select
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.surgery import keep_channels, keep_heads, keep_layers
from edgeprune.compress.levels.settings import sequences_per_batch
from edgeprune.model.model import Model
from edgeprune.model.store import load_masks, load_model, save_model
from edgeprune.text.batches import Batch

_KEEP = {CHANNELS: keep_channels, HEADS: keep_heads}


def run(context: Context, source: Path, target: Path, settings: CutSettings) -> Cut:
    """Cut the model in `source`; write the smaller one into `target`."""
    model = load_model(source, changes=target)
    weights = [] if model.streamed else _apply_masks(model, load_masks(source))
    chosen: dict[str, Any] = {}
    if count := settings.layers_to_drop(len(model.layers)):
        names = _linear_names(model)
        choose = _searched if settings.layer_score == "search" else _ranked
        dropped, chosen = choose(context, source, model, settings, count)
        weights = _renamed(weights, names, _linear_names(model), dropped)
    experts: list[list[int]] = []
    if settings.experts:
        scores = expert_scores(model, context.calibration(settings.samples))
        experts = drop_experts(model, scores, settings.experts)
    asked = {HEADS: settings.heads, CHANNELS: settings.channels}
    kinds = [kind for kind, share in asked.items() if share]
    if kinds:
        read = settings.score != "magnitude" or settings.compensate
        batches = context.calibration(settings.samples) if read else []
        by_kind = unit_scores(model, batches, kinds, settings.score, context.seed)
        for kind in kinds:
            cut(model, kind, by_kind[kind], asked[kind], settings, batches)
    save_model(model, target, _masks_of(model, weights) if weights else None)
    return Cut(
        layers=model.layers,
        **chosen,
        experts=experts,
        heads=[len(heads) for heads in model.heads],
        channels=[len(channels) for channels in model.channels],
        parameters=sum(p.numel() for p in model.module.parameters()),
    )


def _ranked(
    context: Context, source: Path, model: Model, settings: CutSettings, count: int
) -> tuple[list[int], dict[str, Any]]:
    """Drop the layers of the lowest scores: their positions, and a record."""
    batches = context.calibration(settings.sequences_for_layers)
    found = layer_scores(model, batches, settings.layer_score, context.seed)
    dropped = drop_layers(
        model, found, count, *settings.kept_ends(model.anatomy.family.unnormed_first)
    )
    return dropped, {"layer_scores": found.tolist()}


def _searched(
    context: Context, source: Path, model: Model, settings: CutSettings, count: int
) -> tuple[list[int], dict[str, Any]]:
    """Drop the layers that a search finds; interrupted, it goes on from a file in the output."""
    context.output.mkdir(parents=True, exist_ok=True)
    file, samples = context.output / "search-layers.json", settings.sequences_for_layers
    dropped, found = search_blocks(
        model,
        context.original,
        count,
        context.calibration(samples, sequences_per_batch(samples)),
        context.held_out(),
        settings.layer_search,
        context.seed,
        *settings.kept_ends(model.anatomy.family.unnormed_first),
        file=file,
        key=f"{source.name} {settings.model_dump_json()}",
    )
    file.unlink(missing_ok=True)
    keep_layers(model, [layer for layer in range(len(model.layers)) if layer not in dropped])
    return dropped, {"layer_search": found}


def _linear_names(model: Model) -> list[list[str]]:
    """The names of every layer's linears, in the order of the data."""
    return [list(block.linears()) for block in model.anatomy.blocks]


def _renamed(
    names: Sequence[str], before: list[list[str]], after: list[list[str]], dropped: list[int]
) -> list[str]:
    """Linear names after the dropped layers are removed."""
    left = [layer for place, layer in enumerate(before) if place not in dropped]
    moved = {
        old: new
        for olds, news in zip(left, after, strict=True)
        for old, new in zip(olds, news, strict=True)
    }
    gone = {name for place in dropped for name in before[place]}
    return [moved.get(name, name) for name in names if name not in gone]


def cut(
    model: Model,
    kind: str,
    scores: list[Tensor],
    share: float,
    settings: CutSettings,
    batches: Sequence[Batch] = (),
) -> None:
    """Remove round(share * units) of a kind of unit, the lowest scores, exactly.

    batches: the text whose means take the place of what goes (flap), or on which the channels that
        stay are refitted (`compensate`).
    """
    total = sum(len(layer) for layer in scores)
    keep = total - round(share * total)
    minimum = settings.minimum_heads if kind == HEADS else settings.minimum_channels
    kept = select(scores, keep, minimum, settings.resolved_policy)
    if kind == CHANNELS and settings.compensate:
        cut_channels(model, kept, batches, settings.damping)
        return
    if settings.score == "flap":
        keep_means(model, kind, kept, batches)
    remove_masked(model, kind, kept)


def remove_masked(model: Model, kind: str, kept: list[Tensor]) -> None:
    """Cut the units that `kept` [units] marks False out of every layer."""
    blocks = model.anatomy.blocks
    if kind == CHANNELS:  # a mixture has a feed-forward for each of its experts
        blocks = tuple(block for block in blocks for _ in block.feed_forwards)
    for layer, mask in enumerate(kept):
        positions = mask.bool()
        if kind == HEADS and model.anatomy.shared_key_value_heads:
            positions = positions[head_groups(blocks[layer])]
        if not bool(positions.all()):
            with model.opened(blocks[layer].name):
                _KEEP[kind](model, layer, positions.nonzero().flatten().tolist())


def _apply_masks(model: Model, masks: Mapping[str, Tensor]) -> list[str]:
    """Cut what gate masks emptied; the names of linears that keep a weight mask are returned."""
    for kind in (CHANNELS, HEADS):
        for layer in range(len(model.anatomy.blocks)):
            mask = masks.get(f"{kind}.{layer}")
            if mask is not None and not bool(mask.all()):
                _KEEP[kind](model, layer, mask.nonzero().flatten().tolist())
    return [name for name in masks if name.split(".")[0] not in (CHANNELS, HEADS)]


def _masks_of(model: Model, linears: list[str]) -> dict[str, Tensor]:
    """Masks of pruned weights, whose entries are exactly zero, in the shapes that are left."""
    return {name: (model.linear(name).weight != 0).to(torch.uint8) for name in linears}
