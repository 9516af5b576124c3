"""Amount that is pruned at each mask update: a cubic target, and a budget smoothed by momentum.

The cubic target is Zhu and Gupta's (2017); the budget's recursion with
deficit, gate, adaptive momentum, projection and exact landing is our own derivation. Plain
floats, no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.compress.prune.signals import Trend, beta, gate

REFERENCE_UPDATES = 5


@dataclass(frozen=True)
class BudgetRule:
    """The values that make a budget; every mode is one set of them (see MODES).

    beta_min, beta_max, kappa: range and half-way point of the adaptive momentum coefficient.
    rho: weight of the past in the trend of gradient norms.
    band: how far sparsity may fall behind the target at the start; shrinks to 0 at the end.
    gate: what a norm is compared with: its own trend, its mean over the first five updates
        ("start"), or nothing ("open").
    gate_limit: the largest value of the gate.
    feedback: the request is the deficit to the target and is capped by it; without feedback it
        is the target's own increment, capped only by the final sparsity.
    """

    beta_min: float = 0.5
    beta_max: float = 0.95
    kappa: float = 0.3
    rho: float = 0.95
    band: float = 0.08
    gate: Literal["trend", "start", "open"] = "trend"
    gate_limit: float = 1.0
    feedback: bool = True


# The degenerate modes are these values laid over a rule, not other code.
MODES: dict[str, dict[str, Any]] = {
    "mv": {},
    "cubic": {"beta_min": 0.0, "beta_max": 0.0, "gate": "open", "band": 0.0},
    "fixed_mom": {"beta_min": 0.8, "beta_max": 0.8},
    "static_gradnorm": {
        "beta_min": 0.0,
        "beta_max": 0.0,
        "gate": "start",
        "gate_limit": 2.0,
        "band": float("inf"),
        "feedback": False,
    },
}


@dataclass(frozen=True)
class BudgetStep:
    """The decision at one mask update; shares are of all units in the pool."""

    update: int
    step: int
    target: float
    deficit: float
    norm: float | None  # mean since the last update; None when no finite gradient came
    trend: float
    cv: float
    beta: float
    gate: float
    raw: float  # the request q
    smoothed: float  # after momentum, before projection
    budget: float  # b, what is removed
    sparsity: float  # reached by it


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
        self.trend = Trend(rule.rho)
        self.sparsity = 0.0
        self.budget: float | None = None
        self.done = 0
        self._target = 0.0
        self._window_sum = 0.0
        self._window_count = 0
        self._reference_sum = 0.0
        self._reference_count = 0

    def observe(self, norm: float) -> bool:
        """Accumulate one step's gradient norm; False (and no change) when it is not finite."""
        if not self.trend.observe(norm):
            return False
        self._window_sum += norm
        self._window_count += 1
        return True

    def due(self, step: int) -> bool:
        return self.done < len(self.steps) and self.steps[self.done] == step

    def update(self) -> BudgetStep:
        """Decide the next mask update from the norms observed since the last one."""
        rule, step, past = self.rule, self.steps[self.done], self.sparsity
        first, last = self.steps[0], self.steps[-1]
        target = cubic_target(step, first, last, self.final)
        deficit = max(0.0, target - past)
        norm = self._window_sum / self._window_count if self._window_count else None
        coefficient = beta(self.trend.cv, rule.beta_min, rule.beta_max, rule.kappa)
        opening = self._gate(norm)

        wanted, ceiling = deficit, deficit
        if not rule.feedback:
            wanted, ceiling = target - self._target, max(0.0, self.final - past)
        raw = opening * wanted
        memory = raw if self.budget is None else self.budget
        smoothed = coefficient * memory + (1 - coefficient) * raw
        if step == last:
            budget, self.sparsity = self.final - past, self.final
        else:
            lag = rule.band * (1 - (step - first) / (last - first))
            budget = min(ceiling, max(smoothed, target - lag - past, 0.0))
            # Taking the target itself keeps past + (target - past) from losing the last bit.
            on_target = rule.feedback and budget == deficit > 0
            self.sparsity = target if on_target else past + budget

        decided = BudgetStep(
            update=self.done,
            step=step,
            target=target,
            deficit=deficit,
            norm=norm,
            trend=self.trend.mean,
            cv=self.trend.cv,
            beta=coefficient,
            gate=opening,
            raw=raw,
            smoothed=smoothed,
            budget=budget,
            sparsity=self.sparsity,
        )
        if norm is not None and self._reference_count < REFERENCE_UPDATES:
            self._reference_sum += norm
            self._reference_count += 1
        self.budget, self._target, self.done = budget, target, self.done + 1
        self._window_sum, self._window_count = 0.0, 0
        return decided

    def _gate(self, norm: float | None) -> float:
        if self.rule.gate == "open":
            return 1.0
        if norm is None:  # not one finite gradient since the last update: nothing to go on
            return 0.0
        if self.rule.gate == "trend":
            return gate(self.trend.mean, norm, self.rule.gate_limit)
        if self._reference_count < REFERENCE_UPDATES:  # the reference is still being taken
            return 1.0
        return gate(self._reference_sum / self._reference_count, norm, self.rule.gate_limit)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers (JSON keeps them to the bit)."""
        return {
            "trend": self.trend.state_dict(),
            "sparsity": self.sparsity,
            "budget": self.budget,
            "done": self.done,
            "target": self._target,
            "window": [self._window_sum, self._window_count],
            "reference": [self._reference_sum, self._reference_count],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trend.load_state_dict(state["trend"])
        self.sparsity, self.budget = state["sparsity"], state["budget"]
        self.done, self._target = state["done"], state["target"]
        self._window_sum, self._window_count = state["window"]
        self._reference_sum, self._reference_count = state["reference"]
