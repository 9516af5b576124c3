"""Sentences and words of text in any language: what encoders learn from.

Sentences end where sentencex says, by Wikimedia's rules and abbreviations for some 300
languages. Words are separated by blanks; scripts without blanks are counted by letters.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sentencex

MIN_WORDS, MAX_WORDS = 3, 80

# The language whose abbreviations a script's text has; Latin letters and all others are read as
# English where nobody says which language it is.
_LANGUAGES = {"CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar", "HEBREW": "he", "DEVANAGARI": "hi"}

# Ends that sentencex has no rule for: a blank between two letters of Thai or Lao, which have no
# full stop (except after their signs of repetition and abbreviation), and those of Khmer and
# Tibetan.
_OTHER_ENDS = re.compile(
    r"(?<=[\u0e00-\u0eff])(?<![\u0e2f\u0e46\u0eaf\u0ec6])\s+(?=[\u0e00-\u0eff])"
    r"|(?<=[\u17d4\u17d5\u0f0d])\s*(?=[^\s\u17d4\u17d5\u0f0d])"
)

# sentencex's time grows with the square of a line: a book on one line is read in parts that end
# with a sentence, or else with a word.
_PART = re.compile(
    r".{1,4000}(?:[。！？][”’」』）]*|[.!?।؟۔]\s)|.{1,4000}(?:\s|$)|.{1,4000}", re.DOTALL
)
_LONG = 4000

# Letters of scripts without blanks, and how many make an average word: two of Chinese and
# Japanese, five of Thai, Lao, Burmese, Khmer and Tibetan, whose vowels count.
_EAST = r"\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SOUTH = r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(
    rf"[^\w\s]*(?:[{_EAST}]{{1,2}}|[{_SOUTH}]{{1,5}})[^\w\s{_SOUTH}]*|[^\s{_EAST}{_SOUTH}]+"
)


@dataclass(frozen=True)
class Sentences:
    """The different sentences of 3 to 80 words of some documents, in order, and counts of the rest.

    short, long: sentences of fewer or of more words. repeated: those that occurred before.
    without: documents that add none.
    """

    texts: list[str]
    short: int
    long: int
    repeated: int
    without: int

    @property
    def left_out(self) -> dict[str, int]:
        """Counts of sentences and documents left out, by reasons that occurred."""
        counts = {
            f"sentences shorter than {MIN_WORDS} words": self.short,
            f"sentences longer than {MAX_WORDS} words": self.long,
            "sentences that came before": self.repeated,
            "documents without a sentence of their own": self.without,
        }
        return {why: count for why, count in counts.items() if count}


def split_sentences(documents: Sequence[str], language: str | None = None) -> Sentences:
    """The sentences of documents.

    Args:
        language: the ISO 639 code for all of them; None tells it by the script of each line.
    """
    texts: dict[str, None] = {}
    short = long = repeated = without = 0
    for document in documents:
        before = len(texts)
        for sentence in _pieces(document, language):
            words = count_words(sentence)
            if words < MIN_WORDS:
                short += 1
            elif words > MAX_WORDS:
                long += 1
            elif sentence in texts:
                repeated += 1
            else:
                texts[sentence] = None
        without += len(texts) == before
    return Sentences(list(texts), short, long, repeated, without)


def count_words(text: str) -> int:
    """The number of words in a text, estimated where its script does not separate them."""
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))


def fragment(text: str, rng: np.random.Generator) -> str:
    """3 to 14 consecutive words of a sentence of three or more."""
    words = [match.span() for match in _WORD.finditer(text)]
    count = int(rng.integers(3, min(14, len(words)) + 1))
    start = int(rng.integers(0, len(words) - count + 1))
    return text[words[start][0] : words[start + count - 1][1]]


def _pieces(document: str, language: str | None) -> Iterator[str]:
    for line in document.splitlines():
        for part in [line] if len(line) <= _LONG else _PART.findall(line):
            for sentence in sentencex.segment(language or _language(part), part.strip()):
                ends = [sentence] if sentence.isascii() else _OTHER_ENDS.split(sentence)
                yield from filter(None, map(str.strip, ends))


def _language(line: str) -> str:
    """A language written in a line's script."""
    if not line.isascii():
        for letter in line:
            if letter > "\x7f" and letter.isalpha():
                return _LANGUAGES.get(unicodedata.name(letter, "").partition(" ")[0], "en")
    return "en"
