"""Blocks that may go together, by a search over dropped blocks (after EvoPress)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.levels.candidates import Candidates
from edgeprune.compress.levels.evolution import Genome, search
from edgeprune.compress.levels.judge import report, rescored, scorer
from edgeprune.compress.levels.settings import Evolution
from edgeprune.compress.levels.spaces import Drops
from edgeprune.model.forward import handed_on
from edgeprune.model.model import Model
from edgeprune.model.restored import forwards_restored
from edgeprune.text.batches import Batch


def search_blocks(
    model: Model,
    original: Model,
    count: int,
    batches: Sequence[Batch],
    unseen: Sequence[Batch],
    settings: Evolution,
    seed: int,
    first: int = 1,
    last: int = 0,
    file: Path | None = None,
    key: str = "",
) -> tuple[list[int], dict[str, Any]]:
    """The `count` blocks whose absence moves the outputs least, and what the search did.

    `model` stays as it was.

    Args:
        first, last: blocks at either end that stay. The first makes of embeddings what all others
            read.

    Raises:
        UserError: fewer than `count` can go.
    """
    total = len(model.anatomy.blocks)
    if count > total - max(1, first + last):
        raise UserError(
            f"{count} of {total} layers cannot go while {first} at the start and {last} at the end "
            "are kept and one is left: lower cut.layers, cut.keep_first or cut.keep_last."
        )
    space = Drops(total, count, frozenset([*range(first), *range(total - last, total)]))
    with skippable(model, batches[0]) as skip:
        candidates = Candidates(model, skip, range(total))
        score = scorer(candidates, original, batches)
        state = search(space, score, len(batches), settings, seed, file, key)
        winner = state.members[0][0]
        seen = rescored(candidates, original, unseen, space.start(), winner)
    chosen = winner if seen.gained else space.start()
    return [block for block, gone in enumerate(chosen) if gone], report(state, seen)


@contextmanager
def skippable(model: Model, batch: Batch) -> Iterator[Callable[[Genome], None]]:
    """Yields a function that makes the blocks flagged 1 hand on what they are given, uncomputed."""
    modules = model.block_modules()
    answers: list[Any] = []
    handle = modules[0].register_forward_hook(lambda _m, _a, out: answers.append(out))
    try:
        with torch.no_grad():
            model.run(batch)
    finally:
        handle.remove()

    def hand_on(hidden: Tensor, *_others: Any, **_named: Any) -> Any:
        return handed_on(hidden, answers[0])

    def skip(genome: Genome) -> None:
        for module, gone in zip(modules, genome, strict=True):
            if gone:
                module.forward = hand_on
            else:
                vars(module).pop("forward", None)

    with forwards_restored(modules):
        yield skip
