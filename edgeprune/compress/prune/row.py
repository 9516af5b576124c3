"""The rows of the two stages that prune: `prune` before the cut and `sparsify` after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeprune.base.budget import most_removable
from edgeprune.base.errors import UserError
from edgeprune.compress.facts import Facts, Removed
from edgeprune.compress.prune.methods import DEFAULT_METHOD, METHODS, AnyPruneSettings, method_of
from edgeprune.compress.prune.oneshot_settings import LayerwiseSettings, OneShotSettings
from edgeprune.compress.prune.record import Pruned
from edgeprune.compress.prune.settings import PruneSettings
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.compress.stage import Stage, objective
from edgeprune.model.units import block_weights

_CLASSES = {name: method.settings for name, method in METHODS.items()}


def _refuse_prune(settings: AnyPruneSettings, facts: Facts) -> None:
    facts.refuse_mixture("prune")
    _refuse_repeats("prune", settings, facts)
    if settings.gated:
        _left_by_gates(settings, facts)


def _refuse_sparsify(settings: AnyPruneSettings, facts: Facts) -> None:
    facts.refuse_mixture("sparsify")
    _refuse_repeats("sparsify", settings, facts)


def _refuse_repeats(stage: str, settings: AnyPruneSettings, facts: Facts) -> None:
    """Only what prunes in training sees every time that a layer runs."""
    if not isinstance(settings, PruneStageSettings):
        facts.refuse_repeats(stage, f"method: {method_of(settings)}")


def _left_by_gates(settings: AnyPruneSettings, facts: Facts) -> dict[str, Sequence[int]]:
    """Units that closed gates leave at most, where the budgets can be reached."""
    assert isinstance(settings, PruneSettings)
    units = dict(facts.units)
    for pool in settings.pools():
        if pool.pattern == "heads" and pool.share:
            facts.refuse_whole_groups()
        layers, total = units[pool.pattern], sum(units[pool.pattern])
        most = [min(most_removable(n, pool.max_layer_sparsity, pool.share), n - 1) for n in layers]
        goal = round(pool.share * total)
        if goal > sum(most):
            raise UserError(
                f"prune: {goal} of {total} {pool.pattern} should go, and {sum(most)} can while "
                f"every layer keeps one and at most {pool.max_layer_sparsity:g} of it leaves: ask "
                "for less."
            )
        # Where they leave from is not known yet; the sum is all that a later budget needs.
        units[pool.pattern] = [total - goal]
    return units


def _leaves(settings: AnyPruneSettings, facts: Facts) -> Facts:
    """The facts after pruning that comes before the cut."""
    if settings.gated:
        return replace(facts, units=_left_by_gates(settings, facts))
    return _emptied(settings, facts, left=False)


def _emptied(settings: AnyPruneSettings, facts: Facts, left: bool) -> Facts:
    weights = block_weights(facts.checkpoint.anatomy)
    gone = round(settings.sparsity * weights)
    emptied = Removed(pruned_noun(settings.pattern, left), gone, weights, "pruned")
    return replace(facts, emptied=(*facts.emptied, emptied))


def pruned_noun(pattern: str, left: bool = False) -> str:
    """The weights that a pattern empties; `left`: of those that a cut left."""
    weights = "weights that were left" if left else "weights"
    if pattern == "weights":
        return weights
    return f"{weights} in blocks of {pattern}" if "x" in pattern else f"{weights} as {pattern}"


def _would_prune(settings: AnyPruneSettings, facts: Facts) -> list[str]:
    weights = block_weights(facts.anatomy)
    if isinstance(settings, OneShotSettings):
        share = f"{100 * settings.sparsity:g} % of {weights:,} weights"
        return [
            f"{share} go, in the pattern {settings.pattern}",
            f"in one shot by {settings.method}, on {settings.samples:,} sequences of text",
        ]
    lines = []
    for pool in settings.pools():
        if pool.gated:
            units = sum(facts.units[pool.pattern])
            lines.append(f"{round(pool.share * units):,} of {units:,} {pool.pattern} go")
        else:
            share = f"{100 * pool.share:g} % of {weights:,} weights"
            lines.append(f"{share} go, in the pattern {pool.pattern}")
    return [*lines, _training(settings)]


def _would_sparsify(settings: AnyPruneSettings, facts: Facts) -> list[str]:
    trains = isinstance(settings, PruneStageSettings)
    how = _training(settings) if trains else f"by {settings.method}"
    weights = block_weights(facts.anatomy)
    share = f"{100 * settings.sparsity:g} % of the {weights:,} weights that are left"
    return [f"{share} go, in the pattern {settings.pattern}", how]


def _training(settings: Any) -> str:
    return f"{settings.steps:,} steps, budget {settings.budget}, by {settings.saliency}"


def _told(did: Pruned) -> list[str]:
    lines = [did.method] if did.method else []
    for pool in did.pools or ():
        noun = "blocks" if "x" in pool.pattern else "units"
        noun = pool.pattern if pool.pattern in ("channels", "heads", "weights") else noun
        lines.append(f"{pool.removed:,} of {pool.units:,} {noun} removed")
    if did.layers is not None:
        shape = "" if did.pattern == "weights" else f" in {did.pattern}"
        lines.append(f"{did.removed:,} of {did.weights:,} weights removed{shape}")
    return lines


def _whole(stage: str) -> Callable[[AnyPruneSettings], str]:
    """The setting by which a prune stage needs the whole model: any but the same share of each
    linear, or one by its depth, which go layer by layer."""

    def needs(settings: AnyPruneSettings) -> str:
        if not isinstance(settings, LayerwiseSettings):
            return f"{stage}.method: {settings.method}"
        if settings.allocate.by not in ("uniform", "depth"):
            return f"{stage}.allocate: {settings.allocate.by}"
        return ""

    return needs


def _agree_prune(settings: AnyPruneSettings, others: Mapping[str, Any]) -> None:
    cut = others.get("cut")
    if settings.gated and cut is None:
        raise ValueError(
            f"pruning of {settings.pattern} needs the cut stage, by which they leave the "
            "shapes; add `cut: {}`"
        )
    if not settings.gated and cut and cut.compensate:
        raise ValueError(
            "cut.compensate refits whole linears and would fill the weights that pruning "
            f"in the pattern {settings.pattern} emptied; leave one of them out"
        )


def _agree_sparsify(settings: AnyPruneSettings, others: Mapping[str, Any]) -> None:
    if settings.gated:
        raise ValueError(
            f"sparsify prunes the weights that the cut leaves, and {settings.pattern} are "
            "for `prune`; give it a pattern such as 4x16"
        )
    prune = others.get("prune")
    if prune and not prune.gated:
        raise ValueError(
            f"sparsify would give back weights that pruning in the pattern "
            f"{prune.pattern} removed; leave one of them out"
        )


PRUNE = Stage(
    "prune",
    "edgeprune.compress.prune.stage:run",
    Pruned,
    attends=True,
    settings=AnyPruneSettings,
    default=METHODS[DEFAULT_METHOD].settings,
    methods=_CLASSES,
    description="Pruning, by the method that `method` names.",
    whole=_whole("prune"),
    trains=True,
    refuse=_refuse_prune,
    agree=_agree_prune,
    would=_would_prune,
    leaves=_leaves,
    told=_told,
    asks=objective,
)
SPARSIFY = Stage(
    "sparsify",
    "edgeprune.compress.prune.stage:run",
    Pruned,
    attends=True,
    settings=AnyPruneSettings,
    default=METHODS[DEFAULT_METHOD].settings,
    methods=_CLASSES,
    description="Pruning of weights after the cut, in blocks that run fast.",
    whole=_whole("sparsify"),
    trains=True,
    refuse=_refuse_sparsify,
    agree=_agree_sparsify,
    would=_would_sparsify,
    leaves=lambda settings, facts: _emptied(settings, facts, left=True),
    told=_told,
    asks=objective,
)
