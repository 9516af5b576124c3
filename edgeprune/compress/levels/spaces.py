"""Spaces to search under an exact budget: levels of sparsity per linear, and dropped parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.compress.levels.evolution import Genome


@dataclass(frozen=True)
class Levels:
    """A level for each linear; level v removes v * step units more than the base does.

    Levels always sum to zero, so that as many units leave as the base removes.

    base, sizes: units that leave and that there are, by linear. most: levels either way.
    """

    base: Sequence[int]
    sizes: Sequence[int]
    step: int
    most: int

    def start(self) -> Genome:
        """The base itself."""
        return (0,) * len(self.base)

    def fits(self, place: int, level: int) -> bool:
        """A linear can take a level as long as something is left of it."""
        return abs(level) <= self.most and 0 <= self.removed(place, level) < self.sizes[place]

    def removed(self, place: int, level: int) -> int:
        """Units that leave a linear at a level."""
        return self.base[place] + level * self.step

    def counts(self, genome: Genome) -> list[int]:
        """Units that leave each linear."""
        return [self.removed(place, level) for place, level in enumerate(genome)]

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """Up to three times, mostly once, one linear a level up and another a level down."""
        levels = list(genome)
        for _ in range(int(rng.integers(1, 4, size=2).min())):
            ups, downs = self._able(levels, 1), self._able(levels, -1)
            pairs = [(up, down) for up in ups for down in downs if up != down]
            if pairs:
                up, down = pairs[int(rng.integers(len(pairs)))]
                levels[up] += 1
                levels[down] -= 1
        return tuple(levels)

    def cross(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """Each linear's level from either; then single levels are moved until they sum to zero."""
        first = rng.random(len(one)) < 0.5
        levels = [a if take else b for a, b, take in zip(one, other, first, strict=True)]
        while total := sum(levels):
            towards = -1 if total > 0 else 1
            levels[int(rng.choice(self._able(levels, towards)))] += towards
        return tuple(levels)

    def _able(self, levels: list[int], by: int) -> list[int]:
        return [place for place, level in enumerate(levels) if self.fits(place, level + by)]


@dataclass(frozen=True)
class Drops:
    """A choice of dropped parts: 1 in a genome, `count` of `parts`, never a protected one."""

    parts: int
    count: int
    protected: frozenset[int] = frozenset()

    def start(self) -> Genome:
        """The last ones that may go, before the very last: later blocks change least."""
        free = [part for part in range(self.parts) if part not in self.protected]
        if self.count > len(free):
            raise ValueError(f"{self.count} of {len(free)} parts cannot be dropped")
        end = max(self.count, len(free) - 1)
        gone = set(free[end - self.count : end])
        return tuple(int(part in gone) for part in range(self.parts))

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """Up to three times, mostly once, a dropped part comes back and another goes."""
        flags = list(genome)
        for _ in range(int(rng.integers(1, 4, size=2).min())):
            gone = [part for part, flag in enumerate(flags) if flag]
            left = [p for p, flag in enumerate(flags) if not flag and p not in self.protected]
            if gone and left:
                flags[int(rng.choice(gone))] = 0
                flags[int(rng.choice(left))] = 1
        return tuple(flags)

    def cross(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """The parts that both drop, and enough of those that either drops to make up the count."""
        both = [part for part in range(self.parts) if one[part] and other[part]]
        either = [part for part in range(self.parts) if one[part] != other[part]]
        gone = {*both, *rng.permutation(either)[: self.count - len(both)].tolist()}
        return tuple(int(part in gone) for part in range(self.parts))
