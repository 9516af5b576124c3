"""A one-shot method's budget, shared out: the units that leave each linear.

An allocator makes a wished keep ratio for every linear from signals of the dense model; the exact
budget projection (budget.py) moves them all by one constant onto the budget.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch import Tensor

from edgeprune.base.budget import project
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.prune.absorption import amplification, corrected
from edgeprune.compress.prune.allocate_settings import ALLOCATORS, Absorption, Allocator, Uniform
from edgeprune.compress.prune.marchenko_pastur import fit_bulk
from edgeprune.compress.prune.outliers import (
    coverage_curve,
    equal_coverage,
    outlier_share,
    spread_out,
    wanda_scores,
)
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.settings import parse_n_m
from edgeprune.model.model import Model

MISFIT = 0.1
"""Distance beyond which a spectrum does not look like the law, and says nothing."""


class Dense:
    """The dense model's linears, in the order of the data, with what they read over a text."""

    def __init__(self, model: Model, walk: Walk, pattern: str, sparsity: float) -> None:
        self.model, self.walk, self.pattern, self.sparsity = model, walk, pattern, sparsity
        self.names = list(model.anatomy.block_linears())
        self.patterns = {
            name: weight_pattern(pattern, model.anatomy.shape(name), name) for name in self.names
        }
        self.sizes = [self.patterns[name].units for name in self.names]
        self.block_of = {
            name: block.index
            for block in model.anatomy.blocks
            for group in input_groups(block)
            for name in group
        }

    def energies(self) -> dict[str, Tensor]:
        """Squared norm of each input [in] that a linear reads, by the linear's name."""
        found: dict[str, Tensor] = {}
        walk, blocks = self.walk.fork(), self.model.anatomy.blocks
        for block in track(blocks, "reading layers", len(blocks)):
            for names in input_groups(block):
                found |= dict.fromkeys(names, walk.energy(block, names[0]))
            walk.advance(block)
        return found

    def scores(self, name: str, energy: Tensor) -> Tensor:
        """Wanda's scores [out, in] of a linear's weights."""
        return wanda_scores(self.model.linear(name).weight.detach(), energy)


def allocate(
    model: Model, walk: Walk, pattern: str, sparsity: float, how: Allocator
) -> dict[str, int]:
    """Units that leave each linear of the blocks, by name.

    They are round(sparsity * units) in all; under n:m, what the pattern asks of each shape.

    Args:
        walk: text before the first block; it stays there.
    """
    if parse_n_m(pattern) or isinstance(how, Uniform):
        return uniform_counts(model, pattern, sparsity)
    dense = Dense(model, walk, pattern, sparsity)
    return counts_of(dense.names, dense.sizes, ratios(dense, how), sparsity)


def uniform_counts(model: Model, pattern: str, sparsity: float) -> dict[str, int]:
    """The same share of the units of each linear; under n:m, what it asks of each shape."""
    names = list(model.anatomy.block_linears())
    patterns = [weight_pattern(pattern, model.anatomy.shape(name), name) for name in names]
    if parse_n_m(pattern):
        return {name: units.capacity for name, units in zip(names, patterns, strict=True)}
    sizes = [units.units for units in patterns]
    return counts_of(names, sizes, [1 - sparsity] * len(sizes), sparsity)


def counts_of(
    names: list[str], sizes: list[int], wished: list[float], sparsity: float
) -> dict[str, int]:
    """Units that go, round(sparsity * units) in all, by wished keep ratios (or their levels)."""
    keep = sum(sizes) - round(sparsity * sum(sizes))
    kept = project(wished, sizes, keep, minimum=0)
    return {name: size - left for name, size, left in zip(names, sizes, kept, strict=True)}


def ratios(dense: Dense, how: Any) -> list[float]:
    """Wished keep ratios of the linears, of which only the differences count."""
    return _RULES[how.by](dense, how)


def _uniform(dense: Dense, how: Any) -> list[float]:
    return [1 - dense.sparsity] * len(dense.names)


def _owl(dense: Dense, how: Any) -> list[float]:
    return _by_outliers(dense, how, dense.block_of)


def _projection(dense: Dense, how: Any) -> list[float]:
    return _by_outliers(dense, how, {name: name for name in dense.names})


def _by_outliers(dense: Dense, how: Any, layer_of: Mapping[str, Hashable]) -> list[float]:
    """By the share of outliers in each layer, a linear's `layer_of`."""
    energies = dense.energies()
    layers: dict[Hashable, list[str]] = {}
    for name in dense.names:
        layers.setdefault(layer_of[name], []).append(name)

    def share(names: list[str]) -> float:
        return outlier_share(lambda: (dense.scores(n, energies[n]) for n in names), how.factor)

    found = spread_out([share(names) for names in layers.values()], how.spread)
    ratios = dict(zip(layers, found, strict=True))
    return [ratios[layer_of[name]] for name in dense.names]


def _marchenko_pastur(dense: Dense, how: Any) -> list[float]:
    fits = [
        fit_bulk(dense.model.linear(n).weight.detach())
        for n in track(dense.names, "fitting spectra", len(dense.names))
    ]
    fitted = [fit.energy for fit in fits if fit.distance <= MISFIT]
    if not fitted:
        return _uniform(dense, how)
    middle = sum(fitted) / len(fitted)
    noise = [fit.energy if fit.distance <= MISFIT else middle for fit in fits]
    return spread_out([-share for share in noise], how.spread / 2)


def _coverage(dense: Dense, how: Any) -> list[float]:
    curves = [
        coverage_curve(dense.patterns[name].unit_scores(dense.scores(name, energy)))
        for name, energy in dense.energies().items()
    ]
    return equal_coverage(curves, dense.sizes, 1 - dense.sparsity)


def _depth(dense: Dense, how: Any) -> list[float]:
    last = max(1, len(dense.model.anatomy.blocks) - 1)
    return [how.slope * (2 * dense.block_of[name] / last - 1) for name in dense.names]


def _absorption(dense: Dense, how: Absorption) -> list[float]:
    base = ratios(dense, ALLOCATORS[how.base]())
    if not how.strength:
        return base
    uniform = uniform_counts(dense.model, dense.pattern, dense.sparsity)
    few = dense.walk.fork(how.samples)
    logs = amplification(dense.model, few, uniform, dense.pattern)
    per_block = corrected([0.0] * len(logs), logs, how.strength)
    return [r + per_block[dense.block_of[n]] for r, n in zip(base, dense.names, strict=True)]


_RULES: dict[str, Callable[[Dense, Any], list[float]]] = {
    "uniform": _uniform,
    "owl": _owl,
    "projection": _projection,
    "marchenko-pastur": _marchenko_pastur,
    "coverage": _coverage,
    "depth": _depth,
    "absorption": _absorption,
}
