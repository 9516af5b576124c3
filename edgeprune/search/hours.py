"""The hours of a search, shared out among its models.

A model's time holds more than its training: its candidates and itself are built and measured. How
long that takes is learned from what was built, first from the original in the plan's formats; the
rest of a model's share is trained. A model is begun only where its training has at least as long as
what stands around it, so that with few hours there are fewer models, not worse ones.
"""

from edgeprune.base.record import Record
from edgeprune.search.journal import Journal
from edgeprune.search.settings import SearchRunSettings

_SWITCHING = 0.2
"""The part of a model's share in which shapes near its candidates are measured, at most."""


class Share(Record):
    """The time of one model."""

    until: float
    """Seconds of the journal."""
    candidates: int
    """Shapes that are trained briefly; a single one is trained long at once."""


class Hours:
    """The time of a search as it goes by."""

    def __init__(self, settings: SearchRunSettings, journal: Journal, together: int) -> None:
        """together: trainings of candidates that run at once."""
        self._settings, self._journal, self._together = settings, journal, together
        self._whole = self._brief = self._long = 0.0

    @property
    def left(self) -> float:
        """Seconds until the search has to end; below 0 where it is late."""
        return 3600 * self._settings.hours - self._journal.seconds

    def whole_took(self, seconds: float) -> None:
        """Learn from the original, which is built and measured without training."""
        self._whole = seconds

    def briefs_took(self, seconds: float, candidates: int, minutes: float) -> None:
        """Learn from candidates: the time of all, and the training of each."""
        each = seconds / self._rounds(candidates) - 60 * minutes
        self._brief = max(self._brief, each)

    def long_took(self, seconds: float, minutes: float) -> None:
        """Learn from a model, and how long it was trained."""
        self._long = max(self._long, seconds - 60 * minutes)

    def share(self, models: int, candidates: int) -> Share | None:
        """The time of the next model; None where too little is left of the hours.

        Args:
            models: that are still to make, this one among them.
            candidates: that there are for it.
        """
        for count in sorted({candidates, 1}, reverse=True):
            needed = self._around(count) * (1 if self._settings.steps else 2)
            if self.left > needed:
                until = self._journal.seconds + max(self.left / models, needed)
                return Share(until=until, candidates=count)
        return None

    def switching_until(self, share: Share) -> float:
        """The second of the journal at which shapes near the candidates are enough."""
        return self._journal.seconds + _SWITCHING * (share.until - self._journal.seconds)

    def brief_minutes(self, share: Share) -> float:
        """Minutes of each candidate's training."""
        left = share.until - self._journal.seconds - self._around(share.candidates)
        each = self._settings.brief * left / self._rounds(share.candidates)
        return max(0.0, each / 60)

    def long_minutes(self, share: Share, models: int) -> float | None:
        """Minutes of the model's own training; None where the hours do not hold it any more.

        Args:
            models: as in `share`; of a search that goes on with more hours, what is left is shared
                anew.
        """
        left = share.until - self._journal.seconds - self._around(1)
        if left <= 0:
            left = self.left / models - self._around(1)
        if left <= 0:
            left = self.left - self._around(1)
        return left / 60 if left > 0 else None

    def _rounds(self, candidates: int) -> int:
        return -(-candidates // self._together)

    def _around(self, candidates: int) -> float:
        """Seconds that a model takes beside its training: what is not yet known of it, as long as
        the original took."""
        brief = self._brief or self._whole
        long = self._long or self._whole + brief
        return long + (self._rounds(candidates) * brief if candidates > 1 else 0.0)
