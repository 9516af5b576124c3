"""Likelihoods of continuations of a context, counted as lm-evaluation-harness counts them.

Context and continuation are tokenized together and parted after as many tokens as the context
alone has; both begin with what the model's tokenizer opens a text with, if it does; white space at
the context's end belongs to the continuation; what is longer than the model takes loses tokens on
the left (EleutherAI, lm_eval/api/model.py and models/huggingface.py).
The context is computed once for all its continuations, each of which goes on from its key-value
cache alone, so that no padding and no other row has a part in a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.windows import opened
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.logits import negative_log_likelihood
from edgeprune.runtime.tokenize import Tokenizer

# Between a context and its continuation.
DELIMITER = " "


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation: its log-likelihood in nats, and whether greedy decoding gives it."""

    log: float
    greedy: bool


def likelihoods(
    generator: Generator, context: str, continuations: Sequence[str]
) -> list[Likelihood]:
    """The likelihood of each continuation after the context.

    Raises:
        UserError: the context is empty, or a continuation is empty or more than the model takes.
    """
    decoder = generator.decoder
    fed: list[int] | None = None
    found = []
    for continuation in continuations:
        before, after = _cut(*encode_pair(generator.tokenizer, context, continuation), generator)
        if not decoder.has_cache:
            logits = decoder.start().feed([*before, *after[:-1]])[0, len(before) - 1 :]
        else:
            if before != fed:
                decoding = decoder.start()
                last, fed = decoding.feed(before, last_only=True)[0, -1:], before
                mark = decoding.mark()
            decoding.rewind(mark)
            more = [decoding.feed(after[:-1])[0]] if len(after) > 1 else []
            logits = np.concatenate([last, *more])
        if len(logits) != len(after):
            raise UserError(f"{generator.bundle.folder} gives logits of the last token only.")
        targets = np.array(after)
        found.append(
            Likelihood(
                log=-float(negative_log_likelihood(logits, targets).sum()),
                greedy=bool((logits.argmax(axis=1) == targets).all()),
            )
        )
    return found


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Token ids of the context and of the continuation.

    Raises:
        UserError: one of them has none.
    """
    bare = context.rstrip()
    texts = (opened(tokenizer, text) for text in (bare, context + continuation))
    before, whole = ([*opening, *own] for opening, own in texts)
    after = whole[len(before) :]
    if not bare or not after:
        raise UserError(
            f"A continuation needs a context and some text: {context[:40]!r} and "
            f"{continuation[:40]!r} will not do."
        )
    return before, after


def _cut(before: list[int], after: list[int], generator: Generator) -> tuple[list[int], list[int]]:
    """The context's last tokens that leave room for the continuation, whose last is not fed."""
    most = generator.bundle.max_length
    if most is None or len(before) + len(after) <= most + 1:
        return before, after
    if len(after) > most:
        raise UserError(
            f"A continuation has {len(after):,} tokens and the model takes {most:,}: shorten it."
        )
    return before[len(after) - most - 1 :], after
