"""The context of a stage: settings, the original, the text, and where its result goes."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.base.files import read_json, read_object
from edgeprune.base.record import Record
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.token_types import tells_token_types
from edgeprune.text.batches import Batch, Tokens
from edgeprune.text.reader import Reader
from edgeprune.text.text import Text
from edgeprune.text.tokenizer_file import TOKENIZER_SETTINGS

if TYPE_CHECKING:
    from edgeprune.model.model import Model
    from edgeprune.targets import Target


def _as_it_is(model: "Model") -> AbstractContextManager[None]:
    return nullcontext()


@dataclass
class Context:
    """One build: what stays the same over its stages."""

    checkpoint: Checkpoint
    text: Text
    target: "Target"
    settings: Mapping[str, Any]
    """The settings of the stages that run, by the stage's name."""
    output: Path
    seed: int = 0
    """The seed of everything random."""
    streamed: bool = False
    """Whether the model's weights stay on disk."""
    results: dict[str, Record] = field(default_factory=dict)
    """The record of each stage, by its name."""
    folders: dict[str, Path] = field(default_factory=dict)
    """The folder of each stage's output, by its name."""
    given: dict[str, Path] = field(default_factory=dict)
    """The folders of the latest "reference" and "model"; see `Stage.gives`."""

    through: Callable[["Model"], AbstractContextManager[None]] = _as_it_is
    """The context in which a model runs as later stages will have it, where a stage trains so."""

    def branch(self, settings: Mapping[str, Any], target: "Target") -> "Context":
        """The same build so far, going on with other settings for another target; what has been
        read stays read."""
        twin = copy.copy(self)
        twin.settings, twin.target = settings, target
        twin.results, twin.folders = dict(self.results), dict(self.folders)
        twin.given = dict(self.given)
        return twin

    @property
    def model(self) -> Path:
        """The folder of the last stage that wrote a torch model."""
        return self.given["model"]

    @property
    def reference(self) -> Path:
        """The folder of the uncompressed model, with the tokens that the build goes on with."""
        return self.given["reference"]

    @functools.cached_property
    def original(self) -> "Model":
        """The uncompressed model, read once, to be distilled from."""
        from edgeprune.model.store import TRAINING_ATTENTION, load_model

        return load_model(self.reference, TRAINING_ATTENTION)

    @functools.cached_property
    def reader(self) -> Reader:
        """Batches of the user's text, in the tokens that the build goes on with."""
        folder = self.reference
        config = read_json(folder / "config.json")
        typed = tells_token_types(read_object(folder / TOKENIZER_SETTINGS), config)
        return self.text.reader(folder, int(config.get("pad_token_id") or 0), typed)

    def batches(self, purpose: str = "") -> Iterator[Batch]:
        """Training batches without end, others for every purpose."""
        return self.reader.batches(purpose)

    def held_out(self) -> list[Batch]:
        """Batches that no stage trains on."""
        return self.reader.held_out_batches()

    def calibration(self, sequences: int, sequences_per_batch: int | None = None) -> list[Batch]:
        """Batches of this many sequences, as the text's sampler draws them; see the reader's."""
        return self.reader.calibration(sequences, self._embed, sequences_per_batch)

    def _embed(self, texts: Sequence[Tokens]) -> np.ndarray:
        from edgeprune.compress.calibrate.embedding import mean_hidden

        return mean_hidden(self.original, texts)

    def some(self, count: int) -> list[Batch]:
        """The first training batches."""
        return list(islice(self.batches(), count))
