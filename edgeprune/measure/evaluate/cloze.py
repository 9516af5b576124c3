"""Cloze: whether a decoder finds a text's last word, as LAMBADA asks."""

import numpy as np

from edgeprune.base.progress import track
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.likelihood import DELIMITER, likelihoods
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator
from edgeprune.text.files import text_of


def cloze(bundle: Bundle, data: Data) -> Quality:
    """Accuracy, times 100, and perplexity of continuations, as lm-evaluation-harness's LAMBADA.

    accuracy: the share of rows whose continuation is what greedy decoding gives after the context
    and a space, token for token. perplexity: exp of the mean negative log-likelihood, in nats, of a
    whole continuation (not of a token). `data` has rows with `context` and `continuation`.
    """
    rows = data.rows(["context", "continuation"])
    pairs = [
        (text_of(row, "context", data.place), text_of(row, "continuation", data.place))
        for row in rows
    ]
    generator = Generator(bundle)
    found = [
        likelihoods(generator, context, [DELIMITER + continuation])[0]
        for context, continuation in track(pairs, "cloze", len(pairs))
    ]
    scores = {
        "greedy": np.array([each.greedy for each in found]),
        "log_likelihood": np.array([each.log for each in found]),
    }
    return Quality(scores, _accuracy_and_perplexity, {"texts": len(rows)}, data.groups(rows))


def _accuracy_and_perplexity(scores: Scores) -> dict[str, float]:
    return {
        "accuracy": 100 * float(scores["greedy"].mean()),
        "perplexity": float(np.exp(-scores["log_likelihood"].mean())),
    }
