"""Candidates that differ from a certain block on share what a pass computes before it.

Mutants of one parent change few linears, anywhere in the model: what enters the first changed block
is the parent's. One candidate's hidden states are kept, and the others of a batch start from them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.models import Model
from edgeprune.prune.search import Genome
from edgeprune.recover.objective import tensors
from edgeprune.text.batches import Batch


def block_modules(model: Model) -> list[nn.Module]:
    """The modules of the model's blocks, in the order of the data."""
    return [model.module.get_submodule(block.name) for block in model.anatomy.blocks]


def answers_tuples(model: Model, batch: Batch) -> bool:
    """Whether a block answers with a tuple, whose first is the hidden state, or with that alone."""
    kinds: list[bool] = []
    handle = block_modules(model)[0].register_forward_hook(
        lambda _m, _a, out: kinds.append(isinstance(out, tuple))
    )
    try:
        with torch.no_grad():
            model.module(**tensors(batch))
    finally:
        handle.remove()
    return kinds[0]


def outputs_of(
    model: Model,
    batch: dict[str, Any],
    genomes: Sequence[Genome],
    apply: Callable[[Genome], None],
    blocks: Sequence[int],
    tupled: bool,
) -> Iterator[tuple[int, Any]]:
    """Of every genome its number and the model's output on a batch, in an order that saves most.

    Args:
        apply: makes the model a genome's.
        blocks: the block that each place of a genome is about.
        tupled: what `answers_tuples` says.
    """
    modules = block_modules(model)

    def first_changed(one: Genome, other: Genome) -> int:
        pairs = zip(blocks, one, other, strict=True)
        return min((block for block, a, b in pairs if a != b), default=len(modules) - 1)

    shared = [[first_changed(one, other) for other in genomes] for one in genomes]
    kept = max(range(len(genomes)), key=lambda number: sum(shared[number]))
    apply(genomes[kept])
    with _noting(modules) as entered:
        output = model.module(**batch)
    yield kept, output
    for number, genome in enumerate(genomes):
        if number != kept:
            apply(genome)
            start = shared[kept][number]
            with _starting_at(modules[:start], entered[start], tupled):
                output = model.module(**batch)
            yield number, output


@contextmanager
def _noting(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yields a list of what enters each module in the pass that follows."""
    entered: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, given: entered.append(given[0]))
        for module in modules
    ]
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _starting_at(before: Sequence[nn.Module], hidden: Tensor, tupled: bool) -> Iterator[None]:
    """The modules `before` the block that `hidden` enters answer with it, uncomputed."""

    def answer(*_given: Any, **_named: Any) -> Any:
        return (hidden,) if tupled else hidden

    own = [vars(module).get("forward") for module in before]
    for module in before:
        module.forward = answer
    try:
        yield
    finally:
        for module, forward in zip(before, own, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward
