"""The shape stage: layers leave at once, heads and channels in rounds, with training in between.

The share of what has to leave that is gone after round k of n is 1 - (1 - k/n)^2: most goes early,
while there is training left to make up for it. What a cut removes leaves the shapes there and then,
so that every round trains a smaller model than the one before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.base.budget import apportion
from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.compress.context import Context
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.shape_record import Shaped
from edgeprune.compress.cut.shape_settings import ShapeSettings
from edgeprune.compress.cut.stage import remove_masked
from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.compress.distil.train import distil, kept_answers
from edgeprune.compress.maths.ranking import highest
from edgeprune.model.model import Model
from edgeprune.model.store import TRAINING_ATTENTION, load_masks, load_model, save_model
from edgeprune.model.units import channels
from edgeprune.text.batches import Batch

Units = dict[str, list[int]]
"""Kind of unit -> how many each layer has."""


def run(context: Context, source: Path, target: Path, settings: ShapeSettings) -> Shaped:
    """Cut the model in `source`, which may be smaller than the original already, to the shape;
    write it into `target`.

    Raises:
        UserError: it is no larger than the shape in every part, or has weights pruned.
    """
    if settings.start is not None:
        source = Path(settings.start)
    model = load_model(source, TRAINING_ATTENTION)
    _refuse_another(model, context.original)
    if load_masks(source):
        raise UserError(
            f"{source} has pruned weights, which training would fill again: shape it first, and "
            "sparsify what is left."
        )
    kept = settings.kept_layers(model.layers)
    if len(kept) < len(model.layers):
        keep_layers(model, kept)
    shapes = rounds(settings, units_of(model))
    lengths = _lengths(settings, len(shapes) - 1)
    scored = context.calibration(settings.samples) if shapes else []
    batches, held_out = context.batches("shape"), context.held_out()
    answers = kept_answers(context.original, settings, context.output)
    checks: list[dict[str, Any]] = []
    for number, shape in enumerate(shapes):
        cut_to(model, shape, scored, context.seed + number)
        if number < len(lengths):
            found = distil(
                model,
                context.original,
                batches,
                held_out,
                settings.model_copy(update=lengths[number]),
                f"training after cut {number + 1} of {len(shapes)}",
                minutes=lengths[number]["minutes"],
                answers=answers,
            )
            before = checks[-1]["step"] if checks else 0
            checks += [{**row, "step": before + row["step"]} for row in found["checks"]]
    save_model(model, target)
    return Shaped.from_values(
        {
            "layers": model.layers,
            "heads": [len(heads) for heads in model.heads],
            "channels": [len(own) for own in model.channels],
            "parameters": sum(p.numel() for p in model.module.parameters()),
            "rounds": shapes,
            **({"checks": checks} if checks else {}),
        }
    )


def _refuse_another(model: Model, original: Model) -> None:
    """Refuse to start from a model whose tokens or outputs are not the original's."""
    ours, theirs = model.anatomy, original.anatomy
    word = ours.embeddings["word"]
    if ours.shape(word) != theirs.shape(word) or ours.model_type != theirs.model_type:
        raise UserError(
            f"shape.start: {model.folder} is not a smaller model of {original.folder.name}: its "
            f"table of tokens is {ours.shape(word)}, not {theirs.shape(word)}."
        )


def units_of(model: Model) -> Units:
    """The units that each layer of a model has."""
    anatomy = model.anatomy
    return {HEADS: anatomy.head_units, CHANNELS: channels(anatomy)}


def rounds(settings: ShapeSettings, there: Units) -> list[Units]:
    """The shape after each cut, the last as asked; none where nothing has to leave.

    Raises:
        UserError: a layer has fewer units than it shall keep.
    """
    goal = {kind: settings.goal(kind, units) for kind, units in there.items()}
    if goal == there:
        return []
    shapes = []
    for number in range(1, settings.rounds + 1):
        left = (1 - number / settings.rounds) ** 2
        shapes.append(
            {
                kind: [
                    wanted + round(left * (has - wanted))
                    for wanted, has in zip(goal[kind], there[kind], strict=True)
                ]
                for kind in there
            }
        )
    return shapes


def _lengths(settings: ShapeSettings, count: int) -> list[dict[str, Any]]:
    """The steps, or minutes, of each of `count` trainings."""
    if count < 1:
        return []
    minutes = settings.minutes and settings.minutes / count
    return [
        {"steps": steps, "minutes": minutes} for steps in apportion(settings.steps, [1] * count)
    ]


def cut_to(model: Model, shape: Units, batches: Sequence[Batch], seed: int) -> None:
    """Cut a model to a shape, the units of the highest Fisher scores kept in every layer."""
    there = units_of(model)
    kinds = [kind for kind in shape if shape[kind] != there[kind]]
    if not kinds:
        return
    found = unit_scores(model, batches, kinds, "fisher", seed)
    for kind in kinds:
        kept = [
            highest(scores, count) for scores, count in zip(found[kind], shape[kind], strict=True)
        ]
        remove_masked(model, kind, kept)
