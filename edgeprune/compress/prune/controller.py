"""Dynamic momentum-variance pruning of one pool of units while it trains.

    loss.backward()
    pruner.observe()            # reads dense gradients, then masks them
    clip, optimizer.step()
    pruner.after_step(optimizer)  # holds masks; renews them when an update is due

Weights stay masked in the leaf parameter itself, so autograd's gradient is already the dense
gradient with respect to the masked weight, at pruned entries too. What is
ours and what is older stands in schedule.py, saliency.py and newborn.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from edgeprune.base.budget import apportion
from edgeprune.base.errors import UserError
from edgeprune.compress.maths.ranking import highest, lowest
from edgeprune.compress.prune.layer import Layer, Prunable, norm
from edgeprune.compress.prune.newborn import StepCorrection, forget, seed
from edgeprune.compress.prune.schedule import BudgetController, update_steps
from edgeprune.compress.prune.settings import PruneSettings
from edgeprune.compress.prune.signals import Window, momentum, unsteadiness

PROTECTED_UPDATES = 2  # a newborn cannot be dropped by this many updates after its birth
REGROWTH_ENDS = 0.9  # share of the updates after which nothing grows back


class MomentumVariancePruner:
    """Prunes one pool of units to round(share * units) exactly, over `total_steps` steps.

    prunables: all of one kind (weights under a weight pattern, gates for channels or heads).
    settings: for one pool (`settings.pools()` splits channels from heads).
    total_steps: optimizer steps that will be taken; the last mask update comes at share `end`.
    Raises UserError when the limits per layer cannot give up that many units.
    """

    def __init__(
        self, prunables: Sequence[Prunable], settings: PruneSettings, total_steps: int
    ) -> None:
        if settings.pattern == "channels+heads":
            raise ValueError("one pruner holds one pool: take settings.pools()")
        if len({prunable.name for prunable in prunables}) != len(prunables) or not prunables:
            raise ValueError("prunables need names of their own, and at least one")
        if settings.gated and settings.regrowth:
            raise UserError(
                "prune.regrowth is for weights; channels and heads do not grow back: leave it out."
            )
        self.settings = settings
        self._layers = [Layer(prunable, settings) for prunable in prunables]
        self.units = sum(layer.units for layer in self._layers)
        self.goal = round(settings.share * self.units)
        final = settings.share
        if ":" in settings.pattern:  # what n:m asks of these very shapes, ragged groups included
            self.goal = sum(layer.pattern.capacity for layer in self._layers)
            final = self.goal / self.units
        room = sum(layer.limit for layer in self._layers)
        if self.goal > room:
            raise UserError(
                f"Pruning {self.goal} of {self.units} {_noun(settings)} would break "
                f"max_layer_sparsity or empty a layer, which let {room} go: lower the sparsity."
            )
        steps = update_steps(total_steps, settings.start, settings.end, settings.updates)
        self.budget = BudgetController(settings.budget_rule(), steps, final)
        self.trajectory: list[dict[str, Any]] = []
        self._step = 0
        self._finite_steps = 0
        self._births: list[int] = []  # finite steps taken before each mask update
        for layer in self._layers:
            layer.hold()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Element masks by name: True is kept."""
        return {layer.name: layer.mask for layer in self._layers}

    @property
    def kept_units(self) -> dict[str, Tensor]:
        """Unit masks [units] by name: True is kept. The same as masks where units are elements."""
        return {layer.name: layer.kept for layer in self._layers}

    @property
    def removed(self) -> int:
        return sum(layer.removed for layer in self._layers)

    @property
    def sparsity(self) -> float:
        return self.removed / self.units

    # -- every step ---------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, probed: Mapping[Tensor, Tensor] | None = None) -> bool:
        """Read the gradients of one step; call once they are whole, before clipping.

        With an AMP scaler, unscale first. Returns False when a gradient is not finite: steadiness
        and accumulators are then as before, and the caller should leave the optimizer's step
        out. Gradients of pruned weights are zero afterwards; those of gates are gone, as no
        optimizer clears them.

        Args:
            probed: a prunable's tensor -> a gradient beside the training's, to judge its units by.
                It changes no gradient that the optimizer sees.
        """
        signals = [layer.signal((probed or {}).get(layer.value)) for layer in self._layers]
        norms = [
            layer.training_norm(signal) for layer, signal in zip(self._layers, signals, strict=True)
        ]
        judged = all(math.isfinite(norm(signal)) for signal in signals)
        finite = judged and self.budget.observe(math.hypot(*norms))
        if finite:
            self._finite_steps += 1
            for layer, signal, own in zip(self._layers, signals, norms, strict=True):
                layer.steadiness.observe(own)
                layer.accumulate(signal, self._weight(layer))
        for layer in self._layers:
            if layer.gates:
                layer.value.grad = None
            elif layer.value.grad is not None:
                layer.value.grad.masked_fill_(~layer.mask, 0)
            if finite and layer.correction:
                layer.correction.remember()
        return finite

    def _weight(self, layer: Layer) -> float:
        """The weight of this step in a layer's averages."""
        averages = self.settings.averages
        if averages == "plain":
            return 1.0
        return (layer if averages == "layered" else self.budget).steadiness.weight

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer | None = None) -> None:
        """Count the step (also one whose optimizer step was left out), hold and renew masks."""
        self._step += 1
        for layer in self._layers:
            if layer.correction:
                layer.correction.apply(optimizer)
            layer.hold()
        if self.budget.due(self._step):
            self._update(optimizer)
            for layer in self._layers:
                layer.hold()

    # -- every mask update --------------------------------------------------------------------

    def _update(self, optimizer: Optimizer | None) -> None:
        number, decided = self.budget.done, self.budget.update()
        removed = self.removed
        drop = round(decided.sparsity * self.units) - removed
        windows = [layer.steadiness.take() for layer in self._layers]
        variance = Window(decided.norm, decided.deviation).variance(self.settings.kappa)
        grow = self._regrowth(number, variance, self.units - removed)
        scores = [layer.scores() for layer in self._layers]
        allowed, rooms = self._candidates(scores, number, drop + grow)
        if sum(rooms) < drop:  # the budget is exact: protection of newborns yields to it
            allowed, rooms = self._candidates(scores, None, drop)
            grow = 0
        grow = min(grow, removed, sum(rooms) - drop)
        layered = self.settings.layer_budgets == "layered"
        if layered:
            drops, births = self._layer_by_layer(scores, allowed, rooms, drop, grow, windows)
        else:
            drops, births = self._all_layers(scores, allowed, drop, grow)

        self._births.append(self._finite_steps)
        for layer, gone, new in zip(self._layers, drops, births, strict=True):
            active = layer.pattern.element_mask(layer.kept)
            layer.kept = (layer.kept & ~gone) | new
            layer.mask = layer.pattern.element_mask(layer.kept)
            if layer.born is not None:
                layer.born.masked_fill_(gone, -1).masked_fill_(new, number)
                if bool(new.any()):
                    elements = layer.pattern.element_mask(new)
                    forget(optimizer, layer.value, elements)
                    seed(layer.buffers, active, elements)
                self._follow_newborns(layer)
        dropped = sum(int(gone.sum()) for gone in drops)
        grown = sum(int(new.sum()) for new in births)
        self.trajectory.append(
            {
                **asdict(decided),
                "sparsity": self.sparsity,
                "dropped": dropped,
                "grown": grown,
                "churn": (dropped + grown) / self.units,
                "kept": {layer.name: layer.units - layer.removed for layer in self._layers},
            }
        )

    def _regrowth(self, number: int, variance: float, active: int) -> int:
        """Units to exchange at this update: fades with the cosine, and while norms vary."""
        last = len(self.budget.steps) - 1
        if not self.settings.regrowth or number > REGROWTH_ENDS * last or number == last:
            return 0
        fade = 0.5 * (1 + math.cos(math.pi * number / last))
        calm = 1 - unsteadiness(variance)
        return round(self.settings.regrowth * fade * calm * active)

    def _candidates(
        self, scores: list[Tensor], number: int | None, wanted: int
    ) -> tuple[list[Tensor], list[int]]:
        """Units that may go now, per layer, and how many. number None: newborns may go too."""
        masks, rooms = [], []
        for layer, score in zip(self._layers, scores, strict=True):
            mask = layer.kept
            if layer.born is not None and number is not None:
                mask = mask & ~((layer.born >= 0) & (layer.born >= number - PROTECTED_UPDATES))
            mask = layer.pattern.removable(score, layer.kept, mask)
            room, count = layer.limit - layer.removed, int(mask.sum())
            if room < min(wanted, count):  # only then can the layer's own limit bind
                mask = lowest(score.masked_fill(~mask, math.inf), room)
                count = room
            masks.append(mask)
            rooms.append(min(room, count))
        return masks, rooms

    def _all_layers(
        self, scores: list[Tensor], allowed: list[Tensor], drop: int, grow: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One ranking: exact, since the limits nest (unit group, layer, all)."""
        sizes = [layer.units for layer in self._layers]
        ranked = torch.cat(
            [
                self._comparable(layer, score).masked_fill(~mask, math.inf)
                for layer, score, mask in zip(self._layers, scores, allowed, strict=True)
            ]
        )
        gone = lowest(ranked, drop + grow).split(sizes)
        if not grow:
            return list(gone), [torch.zeros_like(mask) for mask in allowed]
        reach = torch.cat([self._growth(layer) for layer in self._layers])
        return list(gone), list(highest(reach, grow).split(sizes))

    def _layer_by_layer(
        self,
        scores: list[Tensor],
        allowed: list[Tensor],
        rooms: list[int],
        drop: int,
        grow: int,
        windows: list[Window],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """A budget per layer: active units, times steadiness, times the layer's own weight."""
        rule = self.budget.rule
        weights = [
            (layer.units - layer.removed)
            * (1 - momentum(window.variance(rule.kappa), rule.beta_min, rule.beta_max))
            * layer.prunable.weight
            for layer, window in zip(self._layers, windows, strict=True)
        ]
        drops = apportion(drop, weights, rooms)
        spare = [
            min(room - count, layer.removed)
            for room, count, layer in zip(rooms, drops, self._layers, strict=True)
        ]
        grows = apportion(min(grow, sum(spare)), weights, spare)
        gone, new = [], []
        for layer, score, mask, down, up in zip(
            self._layers, scores, allowed, drops, grows, strict=True
        ):
            gone.append(lowest(score.masked_fill(~mask, math.inf), down + up))
            new.append(highest(self._growth(layer), up) if up else torch.zeros_like(mask))
        return gone, new

    def _comparable(self, layer: Layer, scores: Tensor) -> Tensor:
        """Scores over their mean size in the layer, unless layers share a scale already."""
        normalize = self.settings.normalize
        one_scale = self.settings.gated and self.settings.saliency != "magnitude"
        if normalize == "none" or (normalize == "auto" and one_scale):
            return scores
        mean = scores[layer.kept].abs().mean()
        return scores / mean if mean > 0 else scores

    def _growth(self, layer: Layer) -> Tensor:
        """Mean |gradient| of the units that were pruned before this update; -inf for others."""
        assert layer.growth is not None
        return layer.pattern.unit_scores(layer.growth).masked_fill(layer.kept, -math.inf)

    def _follow_newborns(self, layer: Layer) -> None:
        assert layer.born is not None
        born = layer.pattern.element_mask(layer.kept & (layer.born >= 0)).reshape(-1)
        positions = born.nonzero().squeeze(1)
        layer.correction = None
        if len(positions):
            births = torch.tensor(self._births, device=layer.born.device)
            units = births[layer.born.clamp(min=0).long()]
            taken = layer.pattern.element_mask(units).reshape(-1)[positions]
            layer.correction = StepCorrection(layer.value, positions, self._finite_steps - taken)

    # -- end, save and load -------------------------------------------------------------------

    def finish(self) -> None:
        """Check that exactly the asked number of units is gone; RuntimeError if not."""
        if self.budget.done < len(self.budget.steps):
            raise RuntimeError(
                f"pruning stopped after step {self._step}; its last mask update is due after step "
                f"{self.budget.steps[-1]}"
            )
        if self.removed != self.goal:
            raise RuntimeError(f"{self.removed} units are pruned instead of {self.goal}")
        for layer in self._layers:
            if bool(layer.value.detach()[~layer.mask].any()):
                raise RuntimeError(f"{layer.name} has pruned entries that are not zero")

    def state_dict(self) -> dict[str, Any]:
        """{"tensors": flat name -> tensor, "numbers": what JSON keeps}; weights not included."""
        tensors = {}
        for layer in self._layers:
            tensors[f"{layer.name}:kept"] = layer.kept.clone()
            for key, buffer in layer.buffers.items():
                tensors[f"{layer.name}:buffer.{key}"] = buffer.clone()
            if layer.growth is not None and layer.born is not None:
                tensors[f"{layer.name}:growth"] = layer.growth.clone()
                tensors[f"{layer.name}:born"] = layer.born.clone()
        numbers = {
            "step": self._step,
            "finite_steps": self._finite_steps,
            "births": list(self._births),
            "budget": self.budget.state_dict(),
            "steadiness": {layer.name: layer.steadiness.state_dict() for layer in self._layers},
            "trajectory": [dict(row) for row in self.trajectory],
        }
        return {"tensors": tensors, "numbers": numbers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; load the model's and the optimizer's own state beside it."""
        tensors, numbers = state["tensors"], state["numbers"]
        for layer in self._layers:
            layer.kept.copy_(tensors[f"{layer.name}:kept"])
            layer.mask = layer.pattern.element_mask(layer.kept)
            for key, buffer in layer.buffers.items():
                buffer.copy_(tensors[f"{layer.name}:buffer.{key}"])
            layer.steadiness.load_state_dict(numbers["steadiness"][layer.name])
            layer.hold()
        self._step, self._finite_steps = numbers["step"], numbers["finite_steps"]
        self._births = list(numbers["births"])
        self.budget.load_state_dict(numbers["budget"])
        self.trajectory = [dict(row) for row in numbers["trajectory"]]
        for layer in self._layers:
            if layer.growth is not None and layer.born is not None:
                layer.growth.copy_(tensors[f"{layer.name}:growth"])
                layer.born.copy_(tensors[f"{layer.name}:born"])
                self._follow_newborns(layer)


def _noun(settings: PruneSettings) -> str:
    if settings.gated:
        return settings.pattern
    return "blocks" if "x" in settings.pattern else "weights"
