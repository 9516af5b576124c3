"""Amount that is pruned at each mask update: a cubic target, approached by a heavy ball.

The cubic target s* is Zhu and Gupta's (2017). What was asked for and not yet given, D, is the
buffer of a momentum whose coefficient beta follows the variance of the training's gradient norms:

    D_k = beta_(k-1) D_(k-1) + s*_k - s*_(k-1)        b_k = (1 - beta_k) D_k is removed

which is s_k = s_(k-1) + (1 - beta_k) (s*_k - s_(k-1)). No update leaves more than an even share
over those that are left, beta_k <= 1 - 1/(K - k + 1), so that the last one lands on the target
exactly and the worst training ends in a straight line, never at a cliff. Our own derivation. Plain
floats, no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.compress.prune.signals import Steadiness, Window, momentum

REFERENCE_UPDATES = 5


@dataclass(frozen=True)
class BudgetRule:
    """The values that make a budget; every mode is one set of them (see MODES).

    beta_min, beta_max: range of the momentum coefficient.
    kappa: deviation of the norms from their trend, over the trend, at which it is half way.
    memory: steps whose median is the trend.
    reference: the coefficient follows instead how far norms stand above their mean over the first
        five updates: 1 - beta = that mean / norm.
    """

    beta_min: float = 0.0
    beta_max: float = 1.0
    kappa: float = 1.0
    memory: int = 61
    reference: bool = False


MODES: dict[str, dict[str, Any]] = {
    "mv": {},
    "cubic": {"beta_min": 0.0, "beta_max": 0.0},
    "fixed_mom": {"beta_min": 0.5, "beta_max": 0.5},
    "static_gradnorm": {"reference": True},
}
"""The modes are these values laid over a rule, not other code."""


@dataclass(frozen=True)
class BudgetStep:
    """The decision at one mask update; shares are of all units in the pool."""

    update: int
    step: int
    target: float
    deficit: float
    """The share that was asked for and not yet given."""
    norm: float | None
    """Mean since the last update; None when no finite gradient came."""
    trend: float
    deviation: float | None
    """Root mean square since the last update, as a share of the trend; None where unknown."""
    beta: float
    budget: float
    """The share that is removed."""
    sparsity: float
    """Reached by it."""


def update_steps(total_steps: int, start: float, end: float, updates: int) -> list[int]:
    """Steps after which masks change: t_0 < ... < t_K, counted from 1, spread evenly.

    start, end: shares of total_steps; updates: K, cut down where there are fewer steps.
    """
    if total_steps < 1:
        raise ValueError("total_steps must be at least 1")
    first = min(max(1, round(start * total_steps)), total_steps)
    last = min(max(first, round(end * total_steps)), total_steps)
    count = min(updates, last - first)
    if count == 0:
        return [last]
    return [first + round(k * (last - first) / count) for k in range(count + 1)]


def cubic_target(step: float, first: float, last: float, final: float, initial: float = 0) -> float:
    """Sparsity wished after `step`: from initial to final, fast first (Zhu and Gupta 2017)."""
    if step >= last:
        return final
    progress = max(0.0, (step - first) / (last - first))
    return final + (initial - final) * (1 - progress) ** 3


class BudgetController:
    """The budget recursion for one pool of units.

    `observe` takes the gradient norm of every step; `update` decides the next mask update and
    returns it. After the update at steps[-1], `sparsity` is `final` exactly.
    """

    def __init__(self, rule: BudgetRule, steps: Sequence[int], final: float) -> None:
        self.rule = rule
        self.steps = list(steps)
        self.final = final
        self.steadiness = Steadiness(rule.memory, rule.kappa)
        self.sparsity = 0.0
        self.done = 0
        self._reference: list[float] = []

    def observe(self, norm: float) -> bool:
        """Take one step's gradient norm; False (and no change) when it is not finite."""
        return self.steadiness.observe(norm)

    def due(self, step: int) -> bool:
        """Whether a mask update comes after this step."""
        return self.done < len(self.steps) and self.steps[self.done] == step

    def update(self) -> BudgetStep:
        """Decide the next mask update from the norms observed since the last one."""
        step, past, left = self.steps[self.done], self.sparsity, len(self.steps) - self.done
        target = cubic_target(step, self.steps[0], self.steps[-1], self.final)
        window = self.steadiness.take()
        beta = min(self._coefficient(window), 1 - 1 / left)
        # Taking the target itself keeps past + (target - past) from losing the last bit.
        self.sparsity = min(target, past + (1 - beta) * (target - past)) if beta else target
        decided = BudgetStep(
            update=self.done,
            step=step,
            target=target,
            deficit=target - past,
            norm=window.norm,
            trend=self.steadiness.trend,
            deviation=window.deviation,
            beta=beta,
            budget=self.sparsity - past,
            sparsity=self.sparsity,
        )
        if window.norm is not None and len(self._reference) < REFERENCE_UPDATES:
            self._reference.append(window.norm)
        self.done += 1
        return decided

    def _coefficient(self, window: Window) -> float:
        rule = self.rule
        if not rule.reference:
            return momentum(window.variance(rule.kappa), rule.beta_min, rule.beta_max)
        if window.norm is None:
            return 1.0
        if len(self._reference) < REFERENCE_UPDATES or window.norm <= 0:
            return 0.0
        return max(0.0, 1 - sum(self._reference) / len(self._reference) / window.norm)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers (JSON keeps them to the bit)."""
        return {
            "steadiness": self.steadiness.state_dict(),
            "sparsity": self.sparsity,
            "done": self.done,
            "reference": list(self._reference),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steadiness.load_state_dict(state["steadiness"])
        self.sparsity, self.done = state["sparsity"], state["done"]
        self._reference = list(state["reference"])
