"""Speedups of shapes: predicted by a table of times, which every model that is timed corrects."""

from edgeprune.search.costs import Costs, times_of
from edgeprune.search.shape import Shape
from edgeprune.search.times.correct import corrected
from edgeprune.search.times.predict import predict
from edgeprune.targets.block_times import BlockTimes

_MICROSECONDS = 1e-6


class Speeds:
    """Speeds of shapes over the original in float32.

    Attributes:
        table: the times as they are known now.
    """

    def __init__(self, table: BlockTimes, whole: float, learns: bool) -> None:
        """whole: the measured speedup of the original in the plan's formats, nothing cut. learns:
        whether models that are timed correct the table."""
        self.table = table
        self._whole, self._learns = whole, learns

    @property
    def original(self) -> float:
        """Seconds of the original in float32, on the table's scale."""
        return self.table.whole * _MICROSECONDS * self._whole

    @property
    def times(self) -> Costs:
        """Seconds of shapes."""
        return times_of(self.table)

    def predicted(self, shape: Shape) -> float:
        """The speedup of a shape."""
        return self.original / predict(self.table, shape)

    def learn(self, shape: Shape, speedup: float) -> None:
        """Correct the table by a model that was timed beside the original."""
        if self._learns:
            self.table = corrected(self.table, [(shape, self.original / speedup)])
