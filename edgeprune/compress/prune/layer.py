"""One tensor under pruning: its pattern, unit mask, accumulators and the steadiness of its norm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.base.budget import most_removable
from edgeprune.base.errors import UserError
from edgeprune.compress.prune.newborn import StepCorrection
from edgeprune.compress.prune.patterns import Gates, Pattern, weight_pattern
from edgeprune.compress.prune.saliency import SALIENCIES
from edgeprune.compress.prune.settings import PruneSettings
from edgeprune.compress.prune.signals import Steadiness

GROWTH_DECAY = 0.9  # average of |gradient| by which removed weights are chosen to grow back


@dataclass(frozen=True, eq=False)
class Prunable:
    """One tensor that gives up units.

    value: the weight [out, in], or a vector of gates [positions], ones that multiply channels
        or heads, with requires_grad and not given to the optimizer.
    magnitude: for gates judged by it, the norm of each unit's weights [units] (or a function that
        returns it, when the weights train on).
    groups: for gates that share a fate, the unit 0, 1, ... of each position [positions].
    weight: the layer's share in `layered` budgets beside its size and steadiness.
    trained: for gates, the weights of their layer that are trained, whose gradient tells how steady
        training is; without any, the gates' own does.
    """

    name: str
    value: Tensor
    magnitude: Tensor | Callable[[], Tensor] | None = None
    groups: Tensor | None = None
    weight: float = 1.0
    trained: Sequence[Tensor] = ()


class Layer:
    """A prunable at work: its pattern, unit mask, accumulators and steadiness."""

    def __init__(self, prunable: Prunable, settings: PruneSettings) -> None:
        value = prunable.value
        self.name, self.value, self.prunable = prunable.name, value, prunable
        self.gates: Gates | None = None
        if settings.gated:
            if value.dim() != 1:
                raise ValueError(f"{self.name}: gates are a vector, not {tuple(value.shape)}")
            self.gates = Gates(value.numel(), prunable.groups)
        self.pattern: Pattern = self.gates or weight_pattern(
            settings.pattern, tuple(value.shape), self.name
        )
        self.units = self.pattern.units
        by_share = most_removable(self.units, settings.max_layer_sparsity, settings.share)
        # units that may go in all
        self.limit = max(0, min(by_share, self.units - 1, self.pattern.capacity))
        self.saliency = SALIENCIES[settings.saliency]
        if self.gates and settings.saliency == "magnitude" and prunable.magnitude is None:
            raise ValueError(f"{self.name}: magnitude needs the norm of each channel or head")
        self.kept = torch.ones(self.units, dtype=torch.bool, device=value.device)
        self.mask = self.pattern.element_mask(self.kept)
        like = self._weights()
        wide = torch.promote_types(like.dtype, torch.float32)  # half precision cannot average
        names = self.saliency.buffers
        self.buffers = {name: torch.zeros_like(like, dtype=wide) for name in names}
        self.steadiness = Steadiness(settings.memory, settings.kappa)
        self.growth: Tensor | None = None  # average of |gradient|
        self.born: Tensor | None = None  # update at which each unit grew back; -1: never
        self.correction: StepCorrection | None = None
        if settings.regrowth:
            self.growth = torch.zeros_like(like, dtype=wide)
            self.born = torch.full((self.units,), -1, dtype=torch.int32, device=value.device)

    @property
    def removed(self) -> int:
        return self.units - int(self.kept.sum())

    def _weights(self) -> Tensor:
        """w of the saliency: the masked weight, or 1 and 0 for each unit's gate."""
        return self.kept.to(self.value.dtype) if self.gates else self.value.detach()

    def signal(self, probed: Tensor | None) -> Tensor:
        """The dense gradient by which units are judged: of weights what they are trained on and
        the probe's together, of gates, which are not trained, the probe's alone."""
        trained = self.value.grad
        if probed is not None and (self.gates or trained is None):
            return probed
        if trained is None:
            raise ValueError(f"{self.name} has no gradient: it takes no part in the loss")
        return trained if probed is None else trained + probed

    def training_norm(self, signal: Tensor) -> float:
        """The norm of the training's gradient: over the gated layer's weights, or of the weight
        itself, at pruned entries too; `signal`'s where training gives none."""
        trained = self.prunable.trained if self.gates else (self.value,)
        found = [weight.grad for weight in trained if weight.grad is not None] or [signal]
        return math.hypot(*map(norm, found))

    def accumulate(self, gradient: Tensor, weight: float) -> None:
        """Take a dense gradient into the accumulators, as a step of this weight."""
        if not self.buffers and self.growth is None:
            return
        if self.gates:
            gradient = self.gates.unit_gradient(gradient)
        self.saliency.accumulate(self.buffers, self._weights(), gradient, weight)
        if self.growth is not None:
            share = (1 - GROWTH_DECAY) * weight
            self.growth.lerp_(gradient.abs().to(self.growth.dtype), share)

    def scores(self) -> Tensor:
        """Unit scores [units] of the active units (those of others mean nothing)."""
        magnitude = self.prunable.magnitude
        if self.gates and not self.saliency.buffers and magnitude is not None:
            scores = (magnitude() if callable(magnitude) else magnitude).detach()
            if scores.shape != (self.units,):
                raise ValueError(f"{self.name}: magnitude must have one entry per unit")
        else:
            scores = self.pattern.unit_scores(self.saliency.score(self.buffers, self._weights()))
        if not bool(torch.isfinite(scores).all()):
            raise UserError(
                f"{self.name} holds weights that are not finite: training has diverged; "
                "lower the learning rate"
            )
        return scores

    @torch.no_grad()
    def hold(self) -> None:
        """Pruned entries are exactly zero, gates exactly 0 or 1."""
        if self.gates:
            self.value.copy_(self.mask)
        else:
            self.value.masked_fill_(~self.mask, 0)


def norm(tensor: Tensor) -> float:
    """The Euclidean norm, summed in float32 at least."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return float(torch.linalg.vector_norm(tensor, dtype=wide))
