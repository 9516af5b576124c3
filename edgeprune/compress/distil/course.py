"""The course of a training, in steps or in time: its learning rates, and when it is checked.

Of several processes that train together, the first one's clock counts.
"""

import math
import time
from collections.abc import Iterator
from typing import Protocol

from edgeprune.base.progress import passing, track
from edgeprune.base.ranks import led
from edgeprune.compress.distil.settings import Optimization


class Course(Protocol):
    """The steps of a training, counted from 1.

    end: what it is measured by, for people.
    rate: the learning rate of the step at hand.
    """

    end: str
    rate: float

    def __iter__(self) -> Iterator[int]:
        """Count the steps until it is over."""

    def due(self) -> bool:
        """Whether the held-out loss is to be measured after the step at hand, asked once; true of
        the last step."""


def course(settings: Optimization, what: str, minutes: float | None = None) -> Course:
    """By minutes where they are given, else by the settings' steps.

    Args:
        what: named in the progress bar.
    """
    return _Steps(settings, what) if minutes is None else _Minutes(settings, what, minutes)


class _Steps:
    def __init__(self, settings: Optimization, what: str) -> None:
        self.end, self.rate = f"of {settings.steps}", 0.0
        self._settings, self._what, self._step = settings, what, 0

    def __iter__(self) -> Iterator[int]:
        steps = self._settings.steps
        for step in track(range(1, steps + 1), self._what, steps):
            self._step, self.rate = step, learning_rate(step, self._settings)
            yield step

    def due(self) -> bool:
        steps = self._settings.steps
        return self._step % max(1, steps // self._settings.checks) == 0 or self._step == steps


class _Minutes:
    def __init__(self, settings: Optimization, what: str, minutes: float) -> None:
        self.end, self.rate = f"in {minutes:g} minutes", 0.0
        self._settings, self._what, self._seconds = settings, what, 60 * minutes
        self._started = time.monotonic()
        self._checks, self._last = 0, False

    def __iter__(self) -> Iterator[int]:
        self._started = time.monotonic()
        warm = self._settings.warmup * self._seconds
        for step, own in enumerate(passing(self._seconds, self._what), start=1):
            passed = led(float, own)
            share = scheduled(passed, warm, self._seconds)
            self.rate = self._settings.learning_rate * share
            checks = self._checks
            yield step
            # A check may itself take what time was left: it has seen the last step then.
            if self._last or (self._checks > checks and self._passed() >= self._seconds):
                return

    def due(self) -> bool:
        passed = self._passed()
        self._last = passed >= self._seconds
        done = int(passed / self._seconds * self._settings.checks)
        if done == self._checks and not self._last:
            return False
        self._checks = done if done > self._checks else self._checks + 1
        return True

    def _passed(self) -> float:
        return led(lambda: time.monotonic() - self._started)


def learning_rate(step: int, settings: Optimization) -> float:
    """Linear warm-up to `learning_rate`, then a half cosine to zero; steps count from 1."""
    warm = max(1, round(settings.warmup * settings.steps))
    return settings.learning_rate * scheduled(step, warm, settings.steps)


def scheduled(place: float, warm: float, end: float) -> float:
    """Share of the largest learning rate at a place from 0 to `end`, which may be passed: a line up
    to 1 at `warm`, then a half cosine to 0."""
    if place <= warm:
        return place / warm if warm else 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (place - warm) / max(1e-9, end - warm))))
