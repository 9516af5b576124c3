"""Answer questions by a part of a context with a bundle.

Scores, words and the merging of windows are those of transformers 4.57's pipeline
(QuestionAnsweringPipeline, which version 5 no longer has), whose rules are told here in short:

    in a window    softmax of the start logits, and of the end logits, over the context's tokens and
                   the first special one, which stands for no answer
    a part         P(start) * P(end), for parts of at most so many tokens; the likeliest are widened
                   to whole words
    windows        parts of the same text are one answer, whose score is their sum
    no answer      the least of the windows' P(start) * P(end) of the first special token
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Encoding

from edgeprune.base.errors import UserError
from edgeprune.runtime.batches import check_number, run_batches, usual_batch
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.finite import finite
from edgeprune.runtime.logits import softmax
from edgeprune.runtime.names import PER_TOKEN
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Text, Tokenizer
from edgeprune.runtime.windows import Windows
from edgeprune.text.answers import cut_into_windows, windows
from edgeprune.text.batches import Tokens
from edgeprune.text.pairs import checked

_LONGEST = 384
"""Tokens of a window at most."""
MOST_TOKENS = 15
"""Tokens of an answer at most, if no number is given."""


@dataclass(frozen=True)
class Answer:
    """A part of a context, its score, and its characters there [start, end); an empty one says that
    there is no answer."""

    answer: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Wanted:
    """Settings of the search for answers."""

    top_k: int = 1
    """The number of answers."""
    handle_impossible_answer: bool = False
    """There may be none."""
    max_answer_len: int = MOST_TOKENS
    """Tokens of an answer at most."""


@dataclass(frozen=True)
class Question(Windows):
    """A question's windows, and which answers are wanted."""

    wanted: Wanted = Wanted()


class QuestionTokenizer(Tokenizer):
    """A tokenizer of questions with their contexts, which cuts these into windows."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._longest = min(self.max_length or _LONGEST, _LONGEST)
        # Once, as several threads may read texts at once.
        cut_into_windows(self.rust, self._longest)

    def encode(
        self, texts: Sequence[Text], prompt: str | None = None, first_only: bool = False
    ) -> list[Tokens]:
        """The windows of each pair of a question and a context.

        Raises:
            UserError: a text is no pair, or a question leaves its context no room.
        """
        given = checked(texts)
        pairs = [text for text in given if not isinstance(text, str)]
        if len(pairs) < len(given):
            raise UserError(
                "A question needs the context that its answer is looked for in: give both, the "
                "question as text and the context as text_pair (--pair)."
            )
        found: list[Tokens] = []
        for pair, encodings in zip(pairs, windows(self.rust, pairs, self._longest), strict=True):
            [first] = self._tokens(encodings[:1], 0)
            found.append(Question(first.ids, first.type_ids, text=pair, encodings=tuple(encodings)))
        return found

    def whole(self, texts: Sequence[Text], prompt: str | None = None) -> list[Tokens]:
        """The same; several threads may call this at once."""
        return self.encode(texts, prompt)

    def tokens(self, encodings: Sequence[Encoding]) -> list[Tokens]:
        """Windows as the model reads them."""
        return self._tokens(encodings, 0)


class Answerer:
    """A model that marks the part of a context that answers a question."""

    tokenizer: QuestionTokenizer

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = QuestionTokenizer(bundle)
        self.session = bundle_session(bundle, threads)
        self.default_batch = usual_batch(bundle.model_path)

    def answer(
        self,
        questions: Sequence[tuple[str, str]],
        top_k: int = 1,
        handle_impossible_answer: bool = False,
        max_answer_len: int = MOST_TOKENS,
        batch_size: int | None = None,
    ) -> list[list[Answer]]:
        """The likeliest answers of each question, the likeliest first.

        Args:
            questions: each with its context.
            top_k: how many answers of each.
            handle_impossible_answer: an answer may be empty: that there is none.
            max_answer_len: tokens of an answer at most.

        Raises:
            UserError: a question leaves its context no room, or a number below 1.
            ModelFault: the model returns NaN or infinity.
        """
        wanted = Wanted(top_k, handle_impossible_answer, max_answer_len)
        return self._answers(self.encode(questions, wanted), batch_size)

    def encode(self, questions: Sequence[Text], wanted: Wanted) -> list[Question]:
        """Tokenized questions that say which answers are wanted; errors as of `answer`."""
        for name in ("top_k", "max_answer_len"):
            check_number(name, getattr(wanted, name))
        return [
            replace(each, wanted=wanted)
            for each in self.tokenizer.encode(questions)
            if isinstance(each, Question)
        ]

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """Answers of tokenized questions, as plain values."""
        return [
            [asdict(answer) for answer in found] for found in self._answers(encoded, batch_size)
        ]

    def line(self, answer: list[dict[str, Any]]) -> str:
        """The answers with their scores."""
        return "; ".join(f"{one['answer'] or '(no answer)'} {one['score']:.3f}" for one in answer)

    def named(self, answer: list[dict[str, Any]]) -> dict[str, Any]:
        """The answers, by a name that rows of questions do not have for the right ones."""
        return {"predictions": answer}

    def _answers(self, encoded: Sequence[Tokens], batch_size: int | None) -> list[list[Answer]]:
        parts = [
            (row, encoding)
            for row, question in enumerate(encoded)
            for encoding in (question.encodings if isinstance(question, Question) else ())
        ]
        flat = self.tokenizer.tokens([encoding for _, encoding in parts])
        if not flat:  # tokens of no question, such as a service warms up with
            flat = list(encoded)
        names = [node.name for node in self.session.get_outputs()]
        outputs = PER_TOKEN if set(PER_TOKEN) <= set(names) else "logits"
        logits: list[np.ndarray] = [np.empty(0)] * len(flat)
        for rows, values, mask in run_batches(
            self.session, self.tokenizer, outputs, flat, batch_size or self.default_batch
        ):
            for row, some, real in zip(rows, values, mask, strict=True):
                logits[row] = finite(some[: int(real.sum())], "logits", self.bundle)
        found: list[_Merged] = [_Merged() for _ in encoded]
        for (row, encoding), values in zip(parts, logits, strict=False):
            question = encoded[row]
            assert isinstance(question, Question)
            found[row].add(question, encoding, values)
        return [
            each.best(question.wanted) if isinstance(question, Question) else []
            for each, question in zip(found, encoded, strict=True)
        ]


class _Merged:
    """The answers of one question's windows."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._none = np.inf

    def add(self, question: Question, encoding: Encoding, logits: np.ndarray) -> None:
        """Add a window's.

        Args:
            logits: of being the first, and the last token of an answer [tokens, 2].
        """
        wanted, context = question.wanted, str(question.text[1])
        own = np.array([side == 1 for side in encoding.sequence_ids])
        tokens = np.flatnonzero(own)
        if not len(tokens):
            return
        # The first special token takes part, and is no part of an answer.
        chosen = np.concatenate([[0], tokens])
        probabilities = softmax(logits[chosen].T)
        self._none = min(self._none, float(probabilities[:, 0].prod()))
        starts, ends = probabilities[:, 1:]
        longest = min(wanted.max_answer_len, len(tokens))
        scores = np.tril(np.triu(np.outer(starts, ends)), longest - 1)
        # Some become the same once they are whole words.
        count = min(scores.size, 2 * wanted.top_k + 10)
        best = np.argpartition(-scores, count - 1, axis=None)[:count]
        for place in best[np.argsort(-scores.flat[best], kind="stable")]:
            first, last = np.unravel_index(place, scores.shape)
            score = float(scores[first, last])
            if score <= 0:
                continue
            start, end = _characters(encoding, int(tokens[first]), int(tokens[last]))
            text = context[start:end]
            first_one = self._answers.get(text.lower(), Answer(text, 0.0, start, end))
            self._answers[text.lower()] = replace(first_one, score=first_one.score + score)

    def best(self, wanted: Wanted) -> list[Answer]:
        """The likeliest, in order."""
        found = list(self._answers.values())
        if wanted.handle_impossible_answer or not found:
            found.append(Answer("", self._none if np.isfinite(self._none) else 0.0, 0, 0))
        return sorted(found, key=lambda each: -each.score)[: wanted.top_k]


def _characters(encoding: Encoding, first: int, last: int) -> tuple[int, int]:
    """The characters of the words from a token to another; of the tokens where the tokenizer knows
    no words."""
    begin, end = _word(encoding, first), _word(encoding, last)
    if begin is not None and end is not None:
        return begin[0], end[1]
    return encoding.offsets[first][0], encoding.offsets[last][1]


def _word(encoding: Encoding, token: int) -> tuple[int, int] | None:
    """The characters of a token's word in the context."""
    word = encoding.token_to_word(token)
    return None if word is None else encoding.word_to_chars(word, 1)
