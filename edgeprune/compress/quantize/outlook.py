"""The cost of INT8 activations, estimated from a little of the text before the work begins."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from edgeprune.compress.context import Context
from edgeprune.compress.quantize.massive import Treatment, refuse_drift
from edgeprune.compress.quantize.model import plan_model, planner
from edgeprune.compress.quantize.plan import Plan
from edgeprune.compress.quantize.settings import QuantizeSettings, preferred
from edgeprune.model.forward import tensors
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import load_model

_SEQUENCES, _TOKENS = 32, 2048
"""Seen at most: some ten seconds of a base-sized model on one thread."""


@dataclass(frozen=True)
class Outlook:
    """Findings about a model that nothing has changed yet."""

    treatment: Treatment
    plan: Plan
    drift: float
    tokens: int

    def lines(self) -> list[str]:
        """The same in sentences, for a dry run."""
        massive, smoothed = self.treatment.massive, self.treatment.smoothed
        tokenwise = sum(entry.format.endswith("-token") for entry in self.plan)
        found = "no linear's input was found to need more than one scale"
        if massive:
            worst = max(massive, key=lambda name: massive[name])
            found = (
                f"{len(massive)} linears read massive activations, up to {massive[worst]:,.0f} "
                f"times the typical value ({worst})"
            )
        helps = [f"a scale per token in {tokenwise}"] if tokenwise else []
        helps += [f"smoothing in {len(smoothed)}"] if smoothed else []
        return [
            f"{found}{': ' if helps else ''}{' and '.join(helps)}",
            f"rounded activations alone move the outputs by {self.drift:.2f} of their size "
            f"(of the whole model, on {self.tokens:,} tokens)",
        ]


def look_ahead(context: Context, settings: QuantizeSettings) -> list[str]:
    """Look at the model that a build reads, before its work or in a dry run; sentences.

    Raises:
        UserError: the model cannot be read, or INT8 would spoil its outputs.
    """
    if context.given:
        return look(context, load_model(context.reference), settings).lines()
    with TemporaryDirectory(prefix="edgeprune-") as name:
        folder = Path(name)
        model = import_checkpoint(context.checkpoint)
        import_tokenizer(context.checkpoint, folder)
        (folder / "config.json").write_text(json.dumps(model.config))
        # Clusters of the model's own embeddings are for the build.
        drawn = context.text.settings.model_copy(update={"sampler": "random"})
        text = replace(context.text, settings=drawn)
        return look(
            replace(context, text=text, given={"reference": folder}), model, settings
        ).lines()


def look(context: Context, model: Model, asked: QuantizeSettings) -> Outlook:
    """Plan a model as the quantize stage would, on a little text; smoothing is left in the model.

    Raises:
        UserError: INT8 would spoil its outputs.
    """
    target = context.target
    settings = preferred(asked, model.anatomy.has_cache, target.decode_weights)
    samples = min(_SEQUENCES, settings.calibration_samples)
    batches = list(_first(map(tensors, context.calibration(samples))))
    treatment, plan, drift = plan_model(model, batches, settings, planner(model, settings, target))
    refuse_drift(drift, settings)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return Outlook(treatment, plan, drift, tokens)


def _first(batches: Iterable[Mapping[str, Tensor]]) -> Iterator[Mapping[str, Tensor]]:
    """Batches up to _TOKENS tokens; the one that passes the bound is cut."""
    left = _TOKENS
    for batch in batches:
        if left <= 0:
            return
        rows = max(1, left // batch["input_ids"].shape[1])
        part = {name: values[:rows] for name, values in batch.items()}
        left -= part["input_ids"].numel()
        yield part
