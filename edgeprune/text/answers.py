"""Questions whose answer is a part of a context: their rows, as SQuAD has them, and the windows of
tokens in which a model looks for it.

A context that is too long beside its question goes on in further windows, which share some tokens
with the one before. Rajpurkar et al. (*SQuAD*, 2016; *Know What You Don't Know*, 2018) have the
form of the rows; a question of the second need not have an answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.text.files import Row, text_of
from edgeprune.text.pairs import Document

COLUMNS = ("question", "context")
FURTHER = ("answers", "answer", "answer_start")
"""Fields of which rows have the first, or the others in its place."""
_STRIDE = 128
"""Tokens that windows share at most; half of a window's, where that is less."""

Span = tuple[int, int]
"""The characters of a context that are an answer [start, end)."""


def pairs_of(rows: Sequence[Row], place: object) -> list[tuple[str, str]]:
    """The question and the context of each row.

    Raises:
        UserError: one of them holds no text.
    """
    where = str(place)
    return [(text_of(row, "question", where), text_of(row, "context", where)) for row in rows]


def texts_of(row: Row, place: object) -> list[str]:
    """A row's answers, each as good as the others; none where it has no answer.

    Raises:
        UserError: it does not say.
    """
    return [text for text, _ in _answers(row, place)]


def spanned(
    rows: Sequence[Row], names: Sequence[str], place: object
) -> tuple[list[tuple[str, str]], list[list[Span]]]:
    """Questions with their contexts, and the places of each one's answers.

    Args:
        rows: with `question`, `context` and `answers` {"text": [...], "answer_start": [...]}, or
            `answer` and `answer_start`; a question without an answer has empty ones.
        names: of labels, of which these models have none.

    Raises:
        UserError: a row does not say what its answers are, or one does not stand where it says.
    """
    pairs = pairs_of(rows, place)
    spans = []
    for row, (_, context) in zip(rows, pairs, strict=True):
        found = []
        for text, start in _answers(row, place):
            if type(start) is not int or context[start : start + len(text)] != text or start < 0:
                raise UserError(
                    f"{place}: the answer {text!r:.60} does not stand at answer_start {start!r:.20}"
                    " of its context, counted in characters from 0: correct answer_start."
                )
            found.append((start, start + len(text)))
        spans.append(found)
    return pairs, spans


def row_of(pair: tuple[str, str], spans: Sequence[Span]) -> Row:
    """The row of which `spanned` makes these."""
    context = pair[1]
    answers = {
        "text": [context[start:end] for start, end in spans],
        "answer_start": [start for start, _ in spans],
    }
    return {**dict(zip(COLUMNS, pair, strict=True)), "answers": answers}


def _answers(row: Row, place: object) -> list[tuple[str, Any]]:
    """The texts that are no empty ones, with what the row says of their place."""
    given = row.get("answers")
    if given is None and "answer" in row:
        given = {"text": [row["answer"] or ""], "answer_start": [row.get("answer_start")]}
    if isinstance(given, Mapping):
        texts = given.get("text")
        starts = given.get("answer_start")
    elif isinstance(given, list) and all(isinstance(each, Mapping) for each in given):
        texts = [each.get("text") for each in given]
        starts = [each.get("answer_start") for each in given]
    else:
        texts = starts = None
    starts = [None] * len(texts) if isinstance(texts, list) and starts is None else starts
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise UserError(
            f"{place}: a row must have 'answers' as SQuAD has them, "
            "{\"text\": [...], \"answer_start\": [...]}, or 'answer' and 'answer_start'; one has "
            f"{given!r:.60}."
        )
    return [(text, start) for text, start in zip(texts, starts, strict=True) if text]


def stride_of(longest: int) -> int:
    """Tokens that windows of so many share."""
    return min(longest // 2, _STRIDE)


def cut_into_windows(tokenizer: Tokenizer, longest: int) -> None:
    """Let a tokenizer cut pairs into windows of so many tokens, the question whole in each."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest, stride=stride_of(longest), strategy="only_second")


def windows(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], longest: int
) -> list[list[Encoding]]:
    """Each pair's windows.

    Args:
        tokenizer: as `cut_into_windows` leaves it, for as many tokens.

    Raises:
        UserError: a question leaves the context no room.
    """
    check_questions(tokenizer, pairs, longest)
    encodings = tokenizer.encode_batch(list(pairs))
    return [[encoding, *encoding.overflowing] for encoding in encodings]


def check_questions(tokenizer: Tokenizer, pairs: Sequence[Document], longest: int) -> None:
    """Refuse a question that leaves its context no more room than windows share.

    Raises:
        UserError: naming the question.
    """
    room = longest - stride_of(longest) - tokenizer.num_special_tokens_to_add(is_pair=True)
    for question in (pair[0] for pair in pairs):
        if _tokens_of(tokenizer, question, longest) >= room:
            raise UserError(
                f"The question {question!r:.60} is too long beside a context: it may have "
                f"{room - 1:,} tokens, as windows have {longest:,}. Shorten it, or in a build "
                "raise text.max_tokens."
            )


def _tokens_of(tokenizer: Tokenizer, question: str, longest: int) -> int:
    """A question's own tokens, or `longest` where it has more."""
    try:
        return len(tokenizer.encode(question, add_special_tokens=False).ids)
    except Exception:  # the library's, where a text that stands alone would have to be cut
        return longest


def token_span(encoding: Encoding, spans: Sequence[Span]) -> Span:
    """The first and the last token of the first answer, if the window holds all of it; else the
    window's first token twice, which stands for no answer."""
    own = [token for token, side in enumerate(encoding.sequence_ids) if side == 1]
    if not spans or not own:
        return 0, 0
    start, end = spans[0]
    offsets = encoding.offsets
    if offsets[own[0]][0] > start or offsets[own[-1]][1] < end:
        return 0, 0
    inside = [token for token in own if offsets[token][1] > start and offsets[token][0] < end]
    return (inside[0], inside[-1]) if inside else (0, 0)
