"""Every stage of a build, in the order in which they run. No torch here."""

from edgeprune.export.stages import MAKING
from edgeprune.pipeline.measure.row import MEASURE

STAGES = (*MAKING, MEASURE)
