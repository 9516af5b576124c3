"""The whole model of a search, how its blocks' units leave, and text to measure shapes on."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgeprune.compress.cut.vocabulary_row import VOCABULARY
from edgeprune.compress.load.row import LOAD
from edgeprune.model.model import Model
from edgeprune.model.store import TRAINING_ATTENTION, load_model
from edgeprune.pipeline.recipe import stages_of
from edgeprune.search.blocks import Leaving, blocks_of
from edgeprune.search.prepare import Prepared
from edgeprune.search.stitched import Stitched
from edgeprune.text.batches import Batch

_TOGETHER = 32
"""Sequences of a batch, at most: the text is divided by batches."""


@dataclass(frozen=True)
class Texts:
    """Batches of different texts: from which order and compensation are taken, by which shapes are
    chosen, and by which a choice is proved."""

    statistics: Sequence[Batch]
    judged: Sequence[Batch]
    proof: Sequence[Batch]


class Whole:
    """The uncompressed model with the tokens that stay, read when it is first asked for."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    @property
    def model(self) -> Model:
        """The model itself."""
        return self._read[0]

    @property
    def texts(self) -> Texts:
        """The text."""
        return self._read[1]

    @cached_property
    def blocks(self) -> list[Leaving]:
        """The model's blocks, by the text from which order and compensation are taken."""
        return list(blocks_of(self.model, self.texts.statistics))

    @cached_property
    def stitched(self) -> Stitched:
        """Shapes of the model as they stand before training."""
        return Stitched(self.model, self.blocks)

    @cached_property
    def _read(self) -> tuple[Model, Texts]:
        settings = self._prepared.settings
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as name:
            context = replace(self._prepared.context)  # what it learns of the model goes with it
            folder = context.checkpoint.folder
            for stage in stages_of(context.settings):
                if stage in (LOAD, VOCABULARY):
                    source, folder = folder, Path(name) / stage.name
                    folder.mkdir()
                    stage.load()(context, source, folder, context.settings.get(stage.name))
                    context.given = {"reference": folder, "model": folder}
            count = settings.samples + 2 * settings.judged
            drawn = context.calibration(count, _TOGETHER)
            part = max(1, round(len(drawn) * settings.judged / count))
            texts = Texts(drawn[2 * part :], drawn[:part], drawn[part : 2 * part])
            return load_model(folder, TRAINING_ATTENTION), texts
