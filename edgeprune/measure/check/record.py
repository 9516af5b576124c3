"""One thing that the gate looked at, and what came of it."""

from typing import ClassVar, Literal

from edgeprune.base.record import Ends, Many, Record

Verdict = Literal["pass", "fail", "undecided", "skipped"]


class Check(Record):
    """A figure of the candidate beside the baseline's.

    `change` and `limit` are per cent of the baseline where `relative`, else points or a count; a
    change beyond its limit, on the limit's side of zero, is a regression. None where there is no
    such number.
    """

    writes_defaults: ClassVar[bool] = True

    name: str
    verdict: Verdict
    sentence: str
    unit: str = ""  # of baseline and candidate: "bytes", "ms", "operators" or "" for a score
    baseline: float | None = None
    candidate: float | None = None
    change: float | None = None
    interval: Ends | None = None  # 95 %, of the change
    pairs: int | None = None  # of turns, that the interval is from
    limit: float | None = None
    relative: bool = True
    note: str = ""  # what a reader needs to know beside a verdict of any kind
    why: Many[str] = ()  # of a failure, what it comes from: operators, layers, tensors, classes

    @property
    def said(self) -> str:
        """The sentence, with its note where it has one."""
        return f"{self.sentence}; {self.note}" if self.note else self.sentence


def skipped(name: str, why: str) -> Check:
    """A check that was not made, and the reason."""
    return Check(name=name, verdict="skipped", sentence=f"not checked: {why}")
