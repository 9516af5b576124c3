"""The divergence of a model's probabilities, token by token, from the original's."""

import numpy as np

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.measure.evaluate.windows import token_windows
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.logits import kl_divergence
from edgeprune.runtime.vocabulary import kept_tokens


def kl(bundle: Bundle, original: Bundle, data: Data, window: int = 512) -> Quality:
    """Mean KL(original || bundle) a token, in nats, and the share of tokens (times 100) where
    both find the same one likeliest; over windows that do not overlap. The runtime class of their
    task has `logits`: token ids [tokens] -> [tokens, classes], the next token's or a label's.

    Where the bundle's vocabulary was trimmed, the windows are of its own tokens, and the original's
    probabilities are those among them.
    """
    kept = None if kept_tokens(original) is not None else kept_tokens(bundle)
    windows = token_windows(original if kept is None else bundle, data, window)
    model, teacher = runtime.load(bundle), runtime.load(original)
    nats, agreed = [], []
    for ids in track(windows.ids, "divergence from the original", len(windows.ids)):
        candidate = model.logits(ids)
        reference = teacher.logits(ids) if kept is None else teacher.logits(kept[ids])[:, kept]
        if reference.shape != candidate.shape:
            raise UserError(
                f"{bundle.folder} gives {candidate.shape[-1]:,} logits a token and "
                f"{original.folder} {reference.shape[-1]:,}: they cannot be compared."
            )
        nats.append(kl_divergence(reference, candidate).mean())
        agreed.append((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean())
    conditions = {**windows.conditions, "tokens": windows.ids.size}
    scores = {"nats_per_token": np.array(nats), "same_top_token": np.array(agreed)}
    return Quality(scores, _means, conditions, windows.groups)


def _means(scores: Scores) -> dict[str, float]:
    return {
        "kl_nats_per_token": float(scores["nats_per_token"].mean()),
        "same_top_token": 100 * float(scores["same_top_token"].mean()),
    }
