"""Languages of texts: as their rows name them, or else by their script."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

FIELD = "lang"
"""The field of rows that names a text's language."""
OTHER = "other"
"""Texts without letters, and those in scripts that hardly any text has."""
_LEAST = 0.01
"""Share of the texts below which a script is not told apart."""
_READ = 400
"""Characters of a text that are looked at."""
_DENSE = {"Han": 3, "Japanese": 3, "Hangul": 3}
"""Letters of an alphabet for which one of these stands, a syllable or a word."""
_KANA = 0.1
"""Share of kana among the letters from which on a text is Japanese, whose nouns are Han."""

# First and last letter of the blocks of the Unicode Standard's scripts.
_BLOCKS = (
    (0x0041, 0x024F, "Latin"),
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0530, 0x058F, "Armenian"),
    (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x06FF, "Arabic"),
    (0x0750, 0x077F, "Arabic"),
    (0x08A0, 0x08FF, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x09FF, "Bengali"),
    (0x0A00, 0x0A7F, "Gurmukhi"),
    (0x0A80, 0x0AFF, "Gujarati"),
    (0x0B00, 0x0B7F, "Oriya"),
    (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"),
    (0x0C80, 0x0CFF, "Kannada"),
    (0x0D00, 0x0D7F, "Malayalam"),
    (0x0D80, 0x0DFF, "Sinhala"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x0E80, 0x0EFF, "Lao"),
    (0x0F00, 0x0FFF, "Tibetan"),
    (0x1000, 0x109F, "Myanmar"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x1200, 0x137F, "Ethiopic"),
    (0x1780, 0x17FF, "Khmer"),
    (0x1800, 0x18AF, "Mongolian"),
    (0x1E00, 0x1EFF, "Latin"),
    (0x1F00, 0x1FFF, "Greek"),
    (0x3040, 0x30FF, "Japanese"),
    (0x3130, 0x318F, "Hangul"),
    (0x31F0, 0x31FF, "Japanese"),
    (0x3400, 0x4DBF, "Han"),
    (0x4E00, 0x9FFF, "Han"),
    (0xAC00, 0xD7A3, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0xFB50, 0xFDFF, "Arabic"),
    (0xFE70, 0xFEFC, "Arabic"),
    (0xFF66, 0xFF9D, "Japanese"),
    (0x20000, 0x323AF, "Han"),
)
_STARTS = [start for start, _, _ in _BLOCKS]


def script(text: str) -> str:
    """The script in which most of a text is written, by its first letters; OTHER without any.

    Japanese is a script here: kana, with Han letters among them.
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else OTHER
    counts = Counter(
        found for letter in text[:_READ] if letter.isalpha() and (found := _block(ord(letter)))
    )
    if not counts:
        return OTHER
    if counts["Japanese"] >= _KANA * (counts["Japanese"] + counts["Han"]) > 0:
        counts["Japanese"] += counts.pop("Han", 0)
    return max(counts, key=lambda name: counts[name] * _DENSE.get(name, 1))


def languages(texts: Sequence[str], named: Sequence[str | None] | None = None) -> list[str]:
    """The language of each text: as it is named, or else its script.

    Scripts of fewer than one text in a hundred are OTHER: a quotation makes no language.

    Args:
        named: a name for each text, or None.
    """
    named = named or [None] * len(texts)
    found = [name or script(text) for name, text in zip(named, texts, strict=True)]
    counts = Counter(found)
    few = {name for name, count in counts.items() if count < _LEAST * len(texts)}
    return [
        OTHER if own is None and each in few else each
        for own, each in zip(named, found, strict=True)
    ]


def _block(code: int) -> str | None:
    start, last, name = _BLOCKS[max(0, bisect_right(_STARTS, code) - 1)]
    return name if start <= code <= last else None
