"""The record of a vocabulary's trimming."""

from edgeprune.base.record import Record
from edgeprune.compress.records import MISSING, Count


class Tokens(Record):
    """Held-out texts in the tokens that are left, beside the same in all tokens."""

    texts: Count
    texts_same: float
    """The share of texts that become the same tokens."""
    tokens_kept: float
    length: float
    """The tokens that the texts take now, for one before."""


class Trimmed(Record):
    """Tokens and parameters before and after."""

    tokens_before: Count = MISSING
    tokens: Count = MISSING
    used: Count = MISSING
    parameters_before: Count = MISSING
    parameters: Count = MISSING
    held_out: Tokens = MISSING
