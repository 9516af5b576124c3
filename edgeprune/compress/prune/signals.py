"""Steadiness of training, read off the norm of the gradient. Plain floats.

The variance recursion is West's (CACM 1979) with exponential weights,
the use of it for a pruning budget is our own derivation.
"""

import math
import sys
from dataclasses import asdict, dataclass

# Only guards 0 / 0: anything larger would make the signals depend on the loss's scale.
TINY = sys.float_info.min


@dataclass
class Trend:
    """Exponentially weighted mean and variance of gradient norms.

    rho: weight of the past, in [0, 1). Observing a norm that is not finite changes nothing.
    """

    rho: float = 0.95
    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    def observe(self, norm: float) -> bool:
        """Accumulate one norm; False (and no change) when it is not finite."""
        if not math.isfinite(norm):
            return False
        if self.count == 0:
            self.mean = norm
        difference = norm - self.mean
        self.mean += (1 - self.rho) * difference
        self.variance = self.rho * (self.variance + (1 - self.rho) * difference * difference)
        self.count += 1
        return True

    @property
    def cv(self) -> float:
        """Coefficient of variation: standard deviation over mean, free of scale."""
        return math.sqrt(self.variance) / (self.mean + TINY)

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.rho, self.mean, self.variance = state["rho"], state["mean"], state["variance"]
        self.count = int(state["count"])


def unsteadiness(cv: float, kappa: float) -> float:
    """cv / (kappa + cv): 0 for constant norms, towards 1 the more they vary."""
    return cv / (kappa + cv)


def beta(cv: float, beta_min: float, beta_max: float, kappa: float) -> float:
    """Momentum coefficient of the budget: beta_min for constant norms, up to beta_max."""
    return beta_min + (beta_max - beta_min) * unsteadiness(cv, kappa)


def gate(reference: float, norm: float, limit: float = 1.0) -> float:
    """min(limit, reference / norm): prune less while norms stand above their reference."""
    if norm <= 0:
        return 1.0
    return min(limit, reference / norm)


def spike_factor(mean: float, norm: float) -> float:
    """Factor that holds one gradient to twice the trend of its norm, for accumulators."""
    if norm <= 2 * mean:
        return 1.0
    return 2 * mean / norm
