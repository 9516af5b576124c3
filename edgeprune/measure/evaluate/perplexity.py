"""Perplexity of a decoder on a text."""

import numpy as np

from edgeprune.base.progress import track
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.measure.evaluate.windows import token_windows
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.logits import negative_log_likelihood


def perplexity(bundle: Bundle, data: Data, window: int = 512, stride: int | None = None) -> Quality:
    """exp of the mean negative log likelihood, in nats, over all predicted tokens.

    Each window stands alone: a token is predicted from those before it in the window. With a
    stride below the window, a window predicts only the tokens that no earlier one holds, each from
    window - stride tokens or more; the first tokens of a text have fewer. Without one, every window
    predicts its own. What no token stands before is given: the first token of a text, or of a
    window without a stride, where the model's tokenizer puts none of its own there.
    """
    windows = token_windows(bundle, data, window, stride)
    generator = Generator(bundle)
    first = np.maximum(windows.new_from, 1)
    nats = np.array(
        [
            negative_log_likelihood(generator.logits(ids)[start - 1 : -1], ids[start:]).sum()
            for ids, start in track(
                zip(windows.ids, first, strict=True), "perplexity", len(windows.ids)
            )
        ]
    )
    tokens = window - first
    conditions = {
        **windows.conditions,
        "stride_tokens": stride or window - windows.opening,
        "predicted_tokens": int(tokens.sum()),
    }
    return Quality({"nats": nats, "tokens": tokens}, _perplexity, conditions, windows.groups)


def _perplexity(scores: Scores) -> dict[str, float]:
    nats = float(scores["nats"].sum() / scores["tokens"].sum())
    return {"perplexity": float(np.exp(nats)), "nats_per_token": nats}
