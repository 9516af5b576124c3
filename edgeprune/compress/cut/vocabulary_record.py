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
    unknown_before: Count = MISSING
    """Unknown tokens among those of the texts before."""
    unknown: Count = MISSING
    """And among those that they take now."""


class Trimmed(Record):
    """Tokens and parameters before and after."""

    tokens_before: Count = MISSING
    tokens: Count = MISSING
    used: Count = MISSING
    parameters_before: Count = MISSING
    parameters: Count = MISSING
    held_out: Tokens = MISSING
    languages: dict[str, Tokens] = MISSING
    """The same of each language, where the text has several."""


def told(did: Trimmed) -> list[str]:
    """The effect of trimming on tokens and held-out texts, in sentences; of several languages also
    that on the one that keeps the fewest of its texts."""
    if not did.tokens_before:
        return []
    lines = [f"{did.tokens:,} of {did.tokens_before:,} tokens stay"]
    lines += [_told(did.held_out, "held-out text")] if did.held_out else []
    if did.languages:
        worst = min(did.languages, key=lambda name: did.languages[name].texts_same)
        lines.append(_told(did.languages[worst], f"of {len(did.languages)} languages {worst}"))
    return lines


def _told(found: Tokens, of: str) -> str:
    line = f"{of}: {100 * found.texts_same:.1f} % of {found.texts:,} texts are the same tokens"
    if found.unknown is not None:
        line += f", unknown ones {found.unknown_before:,} before and {found.unknown:,} now"
    return line
