"""Answers found in a context: exact match and F1 as SQuAD's evaluation has them, and beside the
original's."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.runtime.answer import Answerer
from edgeprune.runtime.bundle import Bundle
from edgeprune.text.answers import COLUMNS, FURTHER, pairs_of, texts_of
from edgeprune.text.files import Row

_MOST_TOKENS = 30
"""Tokens of an answer at most, as BERT's own evaluation had it."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
# Letters of scripts without blanks between words: Chinese and Japanese; Thai, Lao, Burmese, Khmer.
_UNSPACED = re.compile(
    r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)


def spans(bundle: Bundle, data: Data) -> Quality:
    """F1 and exact match, both times 100, of the likeliest answer with at most 30 tokens, as
    SQuAD's evaluation counts them: of several right answers the one that fits best counts.

    `data` has rows with `question`, `context` and `answers` as SQuAD has them, or `answer`. Where
    some questions have no answer, the model may say so, which is right or wrong as a whole. Words
    in scripts without blanks are counted by letters, as the multilingual evaluations do.
    """
    rows = data.rows(COLUMNS, FURTHER)
    truth = [texts_of(row, data.place) for row in rows]
    found = _answered(bundle, rows, data.place, not all(truth))
    scores = {
        "f1": np.array([_best(f1, mine, right) for mine, right in zip(found, truth, strict=True)]),
        "exact_match": np.array(
            [_best(exact, mine, right) for mine, right in zip(found, truth, strict=True)]
        ),
    }
    return Quality(scores, percentages, {"questions": len(rows)}, data.groups(rows))


def same_spans(bundle: Bundle, original: Bundle, data: Data) -> Quality:
    """Shares of questions, times 100, whose likeliest answer has at least half of its words in
    common with the original's, and of those to which both give the same.

    half_of_words: of the longer answer of both, its words are the other's too. `data` has rows with
    `question` and `context`; words are counted as above.
    """
    rows = data.rows(COLUMNS)
    mine, theirs = (_answered(model, rows, data.place, False) for model in (bundle, original))
    scores = {
        "half_of_words": np.array([shared(a, b) >= 0.5 for a, b in zip(mine, theirs, strict=True)]),
        "same": np.array([exact(a, b) for a, b in zip(mine, theirs, strict=True)]),
    }
    return Quality(scores, percentages, {"questions": len(rows)}, data.groups(rows))


def check_rows(rows: Sequence[Row], config: Mapping[str, Any], place: str) -> None:
    """Refuse rows that do not say what their answers are.

    Raises:
        UserError: naming the field.
    """
    for row in rows:
        texts_of(row, place)


def words(text: str) -> list[str]:
    """The words that are compared: in lower case, without ASCII's punctuation and English articles;
    each letter of a script without blanks is one, and other punctuation beside such leaves too."""
    everywhere = _UNSPACED.search(text) is not None
    kept = "".join(
        letter
        for letter in text.lower()
        if letter not in _PUNCTUATION
        and not (everywhere and unicodedata.category(letter).startswith("P"))
    )
    return _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", kept)).split()


def exact(found: str, right: str) -> float:
    """1 where both have the same words in the same order, else 0."""
    return float(words(found) == words(right))


def f1(found: str, right: str) -> float:
    """The harmonic mean of precision and recall of words; where one has none, 1 if the other has
    none either."""
    mine, theirs = words(found), words(right)
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * _common(mine, theirs) / (len(mine) + len(theirs))


def shared(one: str, other: str) -> float:
    """The words that two answers have in common, as a share of the longer one's."""
    mine, theirs = words(one), words(other)
    most = max(len(mine), len(theirs))
    return _common(mine, theirs) / most if most else 1.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return (Counter(one) & Counter(other)).total()


def _best(score: Callable[[str, str], float], found: str, right: Sequence[str]) -> float:
    return max(score(found, each) for each in [one for one in right if words(one)] or [""])


def _answered(bundle: Bundle, rows: Sequence[Row], place: str, impossible: bool) -> list[str]:
    """The likeliest answer to each row's question."""
    found = Answerer(bundle).answer(
        pairs_of(rows, place),
        handle_impossible_answer=impossible,
        max_answer_len=_MOST_TOKENS,
    )
    return [answers[0].answer for answers in found]
