"""A model in the form of one candidate of a search after the other.

Candidates that differ from a certain block on share what a pass computes before it. Mutants of one
parent change few linears, anywhere in the model: what enters the first changed block is the
parent's. One candidate's blocks are remembered, and the others of a batch start from them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgeprune.compress.levels.evolution import Genome
from edgeprune.model.model import Model
from edgeprune.model.restored import forwards_restored


@dataclass(frozen=True)
class Candidates:
    """model: takes their forms. apply: gives it a genome's. blocks: the block that each place of a
    genome is about."""

    model: Model
    apply: Callable[[Genome], None]
    blocks: Sequence[int]

    def outputs(
        self, run: Callable[[], Any], genomes: Sequence[Genome]
    ) -> Iterator[tuple[int, Any]]:
        """Of every genome its number and what `run` answers, in an order that saves most.

        Args:
            run: one pass of the model, the same text each time.
        """
        modules = self.model.block_modules()
        shared = [[self._shared(one, other) for other in genomes] for one in genomes]
        kept = max(range(len(genomes)), key=lambda number: sum(shared[number]))
        self.apply(genomes[kept])
        with _noting(modules) as answers:
            output = run()
        yield kept, output
        for number, genome in enumerate(genomes):
            if number != kept:
                self.apply(genome)
                start = shared[kept][number]
                with _answering(modules[:start], answers[start - 1]):
                    output = run()
                yield number, output

    def _shared(self, one: Genome, other: Genome) -> int:
        """Blocks before the first that differs; one is always computed."""
        pairs = zip(self.blocks, one, other, strict=True)
        return min((block for block, a, b in pairs if a != b), default=max(self.blocks))


@contextmanager
def _noting(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Yields a list of what each module answers in the pass that follows."""
    answers: list[Any] = []
    handles = [
        module.register_forward_hook(lambda _m, _given, answer: answers.append(answer))
        for module in modules
    ]
    try:
        yield answers
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _answering(modules: Sequence[nn.Module], answer: Any) -> Iterator[None]:
    """The modules answer so, uncomputed: what follows the last of them reads it."""

    def at_once(*_given: Any, **_named: Any) -> Any:
        return answer

    with forwards_restored(modules):
        for module in modules:
            module.forward = at_once
        yield
