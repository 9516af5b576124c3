"""Every stage that makes the model, in the order in which they run. No torch here."""

from edgeprune.compress.cut.row import CUT
from edgeprune.compress.cut.shape_row import SHAPE
from edgeprune.compress.cut.vocabulary_row import VOCABULARY
from edgeprune.compress.load.row import LOAD
from edgeprune.compress.prune.row import PRUNE, SPARSIFY
from edgeprune.compress.quantize.row import QUANTIZE
from edgeprune.compress.recover.row import RECOVER
from edgeprune.export.rewrite.row import REWRITE
from edgeprune.export.row import EXPORT, ORIGINAL

MAKING = (
    LOAD,
    ORIGINAL,
    VOCABULARY,
    PRUNE,
    CUT,
    SHAPE,
    SPARSIFY,
    RECOVER,
    QUANTIZE,
    EXPORT,
    REWRITE,
)
