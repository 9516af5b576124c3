"""The recover stage: distil the cut model from the original, masks held."""

from contextlib import nullcontext
from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.compress.distil.train import HeldMasks, distil, kept_answers
from edgeprune.compress.recover.record import Recovered
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.model.store import TRAINING_ATTENTION, load_masks, load_model, save_model


def run(context: Context, source: Path, target: Path, settings: RecoverSettings) -> Recovered:
    """Train the model in `source` towards the original; write the best weights into `target`."""
    student, masks = load_model(source, TRAINING_ATTENTION), load_masks(source)
    watchers = [HeldMasks(student, masks)] if masks else []
    with context.through(student) if settings.quantized else nullcontext():
        result = distil(
            student,
            context.original,
            context.batches("recover"),
            context.held_out(),
            settings,
            "recovery",
            watchers,
            minutes=settings.minutes,
            answers=kept_answers(context.original, settings, context.output),
        )
    save_model(student, target, masks or None)
    return Recovered.from_values(result)
