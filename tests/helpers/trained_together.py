"""Trainings to be run by one process and by several, with the same results: as a program, by those
that accelerate starts.

    accelerate launch --multi_gpu --num_processes 2 trained_together.py MODELS RESULT
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tiny_models import VOCABULARY, make_model
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.ranks import is_first, number
from edgeprune.compress.distil.answers import Answers
from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.compress.distil.together import check_alike
from edgeprune.compress.distil.train import distil
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.prune.dynamic import prune
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.pipeline.joined import joined
from edgeprune.text.batches import Batch
from edgeprune.text.tags import IGNORED

FAMILIES = ("bert", "classifier", "bert-tagger", "llama", "mixtral")
DECODERS = ("llama", "mixtral")
ROWS = (5, 4, 1)
QUIET = {"precision": "float32", "learning_rate": 1e-3, "checks": 2}
Found = dict[str, Tensor]
"""Names -> losses, masks or weights."""


def make_models(place: Path) -> None:
    """A student and its original of every family."""
    for family in FAMILIES:
        for seed, role in enumerate(("student", "original"), start=1):
            made = make_model(family, place / "made" / family / role, unequal=False, seed=seed)
            save_model(made, place / family / role)


def batches(family: str, seed: int = 0, rows: tuple[int, ...] = ROWS) -> list[Batch]:
    """Batches of so many texts of different lengths: not all can be shared out evenly."""
    rng = np.random.default_rng(seed)
    made = []
    for count in rows:
        ids = rng.integers(5, VOCABULARY, (count, 8))
        lengths = rng.integers(3, 9, count) if family not in DECODERS else np.full(count, 8)
        mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
        labels = None
        if family == "classifier":
            labels = rng.integers(0, 3, count)
        if family == "bert-tagger":  # few tokens have one, and texts not equally many
            drawn = rng.integers(0, 3, (count, 8))
            labels = np.where((mask == 1) & (rng.random((count, 8)) < 0.4), drawn, IGNORED)
        made.append(Batch(np.where(mask == 1, ids, 1), mask, labels))
    return made


def _trained(family: str, place: Path, answers: Path | None = None, **settings: object) -> Found:
    student, original = _pair(family, place)
    kept = Answers(answers, original, objective_of(original), 1) if answers else None
    minutes, rows = settings.pop("minutes", None), settings.pop("rows", ROWS)
    chosen = TrainSettings(**{"steps": 6, **QUIET, **settings})
    held = batches(family, seed=9)
    endless = itertools.cycle(batches(family, rows=rows))
    found = distil(student, original, endless, held, chosen, "x", minutes=minutes, answers=kept)
    return {**_losses(found), **_weights(student)}


def _pruned(
    place: Path, family: str = "bert", rows: tuple[int, ...] = ROWS, **settings: object
) -> Found:
    student, original = _pair(family, place)
    chosen = PruneStageSettings(**{"steps": 12, "updates": 4, **QUIET, **settings})
    held, endless = batches(family, seed=9), itertools.cycle(batches(family, rows=rows))
    pruners, found = prune(student, original, endless, held, chosen, seed=0)
    masks = {f"mask {n}": mask for pruner in pruners for n, mask in pruner.masks.items()}
    return {**_losses(found), **masks, **_weights(student)}


def _pair(family: str, place: Path) -> tuple[Model, Model]:
    student, original = (load_model(place / family / role) for role in ("student", "original"))
    return student, original


def _losses(found: dict) -> Found:
    rows = [row[name] for row in found["checks"] for name in ("loss", "held_out")]
    return {"losses": torch.tensor(rows)}


def _weights(student: Model) -> Found:
    return {f"weight {name}": p.detach() for name, p in student.module.named_parameters()}


LABELS = {"label_weight": 0.5, "hidden_weight": 0.7}
CASES: dict[str, Callable[[Path], Found]] = {
    "gates": lambda place: _pruned(place, sparsity=0.5, head_sparsity=0.5),
    "gates, no probe": lambda place: _pruned(place, sparsity=0.4, head_sparsity=0.25, probe=0),
    "weights": lambda place: _pruned(place, pattern="weights", sparsity=0.6),
    "weights that grow back": lambda place: _pruned(place, pattern="weights", regrowth=0.3),
    "sentences": lambda place: _trained("bert", place),
    "kept answers": lambda place: _trained("bert", place, place / "answers", hidden_weight=0),
    "rows of words": lambda place: _trained("bert", place, train_embeddings=True),
    "labels of texts": lambda place: _trained("classifier", place, **LABELS),
    "labels of tokens": lambda place: _trained("bert-tagger", place, **LABELS),
    "next tokens": lambda place: _trained("llama", place, **LABELS),
    "experts that few texts reach": lambda place: _trained("mixtral", place, rows=(2, 1)),
    "gates of experts": lambda place: _pruned(
        place, "mixtral", (2, 1), pattern="channels", sparsity=0.5
    ),
}
TIMED = {"minutes": lambda place: _trained("bert", place, minutes=0.02)}
"""One that ends by the clock, so that no two are the same."""


def refusal_of_others(place: Path) -> str:
    """The sentence on weights that differ from process to process."""
    weight = next(_pair("bert", place)[0].module.parameters()).detach()
    try:
        check_alike([weight + number()])
    except UserError as error:
        return str(error)
    return ""


def main(place: Path, result: Path) -> None:
    with joined():
        found = {name: make(place) for name, make in (CASES | TIMED).items()}
        refused = refusal_of_others(place)
        if is_first():
            torch.save({**found, "refused": refused}, result)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
