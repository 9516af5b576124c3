"""Steadiness of training, read off the norm of its gradient. Plain floats.

The trend of the norms is their median over the last steps: a burst shorter than half of them leaves
it alone, and a lasting jump becomes it after half of them. A step's deviation is its distance from
the trend, over the trend: free of the loss's scale. Two things hang on its square, v, in units of
kappa:

    weight of a step in an average         1 / (1 + v^2)      1 in calm, 1/2 at kappa, ~0 in a burst
    momentum of the budget, V the mean v   V^2 / (1 + V^2)    0 in calm, towards 1 in a burst

Both are our own derivation. The fourth power of the deviation makes even the squared gradients of a
burst count for nothing in an average.

A trend that follows the norms by a share a step, and by a bounded share in a burst, will not do: a
student that still equals its original has next to no gradient. MiniLM's first norm in distillation
was 1e-7 and its third 3; such a trend stood at 3e-5 after 120 steps, and no step had any weight.
"""

import math
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Window:
    """The steps between two mask updates.

    norm: mean gradient norm. deviation: root mean square of the deviations from the trend. Both
    None where no finite norm came, the deviation also where it has no finite size.
    """

    norm: float | None
    deviation: float | None

    def variance(self, kappa: float) -> float:
        """The mean square of the deviations in units of kappa; infinite where it is not known."""
        return math.inf if self.deviation is None else (self.deviation / kappa) ** 2


@dataclass
class Steadiness:
    """Trend of gradient norms, and deviations from it.

    memory: steps whose median is the trend. kappa: the deviation at which a step weighs half.
    """

    memory: int = 61
    kappa: float = 1.0
    recent: list[float] = field(default_factory=list)
    """The last norms, at most `memory`."""
    deviation: float = 0.0
    """Of the last step, from the trend of those before it."""
    norms: float = 0.0
    squares: float = 0.0
    steps: int = 0
    """Sums since the last window, and how many steps they are of."""

    @property
    def trend(self) -> float:
        """The median of the last norms; 0 before the first."""
        return median(self.recent) if self.recent else 0.0

    def observe(self, norm: float) -> bool:
        """Take the norm of one step; False, and no change, where it is not finite."""
        if not math.isfinite(norm):
            return False
        trend = self.trend or norm  # without any before it, or among zeros, a norm is its own trend
        self.deviation = norm / trend - 1 if trend else 0.0
        self.recent = [*self.recent, norm][-self.memory :]
        self.norms += norm
        self.squares += self.deviation * self.deviation
        self.steps += 1
        return True

    @property
    def weight(self) -> float:
        """The weight of the last step in an average, in [0, 1]."""
        square = (self.deviation / self.kappa) * (self.deviation / self.kappa)
        return 1 / (1 + square * square)

    def take(self) -> Window:
        """The steps since the last call."""
        mean = math.sqrt(self.squares / self.steps) if self.steps else math.inf
        window = Window(
            self.norms / self.steps if self.steps else None,
            mean if math.isfinite(mean) else None,
        )
        self.norms, self.squares, self.steps = 0.0, 0.0, 0
        return window

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers (JSON keeps them to the bit)."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name, value in state.items():
            setattr(self, name, value)


def unsteadiness(variance: float) -> float:
    """V^2 / (1 + V^2): 0 for constant norms, 1/2 at V = 1, towards 1 the more they vary."""
    return 1 - 1 / (1 + variance * variance)


def momentum(variance: float, beta_min: float, beta_max: float) -> float:
    """The budget's momentum: beta_min for constant norms, towards beta_max the more they vary."""
    return beta_min + (beta_max - beta_min) * unsteadiness(variance)
