"""The engines that carry out trials: this process, or a cluster.

Trials are pure functions of what they hold (trial.py), so that it does not matter where one runs,
how often, or in which order.
"""

from collections.abc import Sequence
from typing import Protocol

from edgeprune.search.trial import Trial, Tried, try_out


class Engine(Protocol):
    """Carries out trials."""

    def run(self, trials: Sequence[Trial]) -> list[Tried]:
        """The results, in the order of the trials."""


class Here:
    """This process, one after the other."""

    def run(self, trials: Sequence[Trial]) -> list[Tried]:
        """Each in turn."""
        return [try_out(trial) for trial in trials]
