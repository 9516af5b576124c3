"""Masked tokens found again: by a model alone, and beside its original."""

from collections.abc import Iterator, Sequence

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.measure.evaluate.data import SEED, Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.fill import Filler, MaskTokenizer
from edgeprune.runtime.logits import kl_divergence, negative_log_likelihood
from edgeprune.runtime.vocabulary import kept_tokens
from edgeprune.text.batches import Tokens
from edgeprune.text.masks import masked as with_masks
from edgeprune.text.tags import IGNORED

_AT_A_TIME = 8
"""Texts whose logits are in memory: those of a masked token take up to a megabyte."""


def masked(bundle: Bundle, data: Data) -> Quality:
    """Accuracy, times 100, and perplexity of tokens that were masked, over all texts together.

    Of each text's own tokens round(0.15 n), at least one, are masked, drawn by a seed, all at once.
    accuracy: the share of them whose likeliest fill is what stood there. masked_perplexity: exp of
    the mean of -log p, in nats, of what stood there. `data` has texts; one that is longer than the
    model reads is cut.
    """
    rows = data.texts()
    filler = Filler(bundle)
    hidden = _hidden(filler.tokenizer, [row["text"] for row in rows], data.place)
    nats, right = [], []
    for (_, truth), logits in zip(hidden, _logits(filler, hidden, "masked tokens"), strict=True):
        nats.append(negative_log_likelihood(logits, truth).sum())
        right.append((logits.argmax(axis=1) == truth).sum())
    counts = np.array([len(truth) for _, truth in hidden])
    scores = {"right": np.array(right), "nats": np.array(nats), "masked": counts}
    conditions = {"texts": len(rows), "masked_tokens": int(counts.sum())}
    return Quality(scores, _of_tokens, conditions, data.groups(rows))


def masked_kl(bundle: Bundle, original: Bundle, data: Data) -> Quality:
    """Mean KL(original || bundle) of the fills of a masked token, in nats, and the share of masked
    tokens (times 100) for which both find the same one likeliest; tokens are masked as above.

    Where the bundle's vocabulary was trimmed, texts are of its own tokens, and the original's
    probabilities are those among them.
    """
    rows = data.texts()
    model, teacher = Filler(bundle), Filler(original)
    kept = None if kept_tokens(original) is not None else kept_tokens(bundle)
    tokenizer = (teacher if kept is None else model).tokenizer
    hidden = _hidden(tokenizer, [row["text"] for row in rows], data.place)
    told = "divergence from the original"
    nats, agreed = [], []
    for candidate, whole in zip(
        _logits(model, hidden, told), _logits(teacher, hidden, "", kept), strict=True
    ):
        reference = whole if kept is None else whole[:, kept]
        if reference.shape != candidate.shape:
            raise UserError(
                f"{bundle.folder} gives {candidate.shape[-1]:,} logits a token and "
                f"{original.folder} {reference.shape[-1]:,}: they cannot be compared."
            )
        nats.append(kl_divergence(reference, candidate).sum())
        agreed.append((reference.argmax(axis=1) == candidate.argmax(axis=1)).sum())
    counts = np.array([len(truth) for _, truth in hidden])
    scores = {"nats": np.array(nats), "same": np.array(agreed), "masked": counts}
    conditions = {"texts": len(rows), "masked_tokens": int(counts.sum())}
    return Quality(scores, _of_both, conditions, data.groups(rows))


_Hidden = tuple[Tokens, np.ndarray]
"""A text's tokens of which some are masked, and what these were [masked]."""


def _hidden(tokenizer: MaskTokenizer, texts: Sequence[str], place: str) -> list[_Hidden]:
    """Texts with masks, which depend on a text's tokens alone."""
    if tokenizer.max_length is not None:
        tokenizer.rust.enable_truncation(tokenizer.max_length)
    try:
        encodings = tokenizer.rust.encode_batch(list(texts))
    finally:
        tokenizer.rust.no_truncation()
    found = []
    for encoding in encodings:
        own = [not special for special in encoding.special_tokens_mask]
        rng = np.random.default_rng([SEED, *encoding.ids])
        ids, labels = with_masks(encoding.ids, own, tokenizer.mask_id, rng)
        truth = np.array(labels)
        found.append((Tokens(ids, encoding.type_ids), truth[truth != IGNORED]))
    if not any(len(truth) for _, truth in found):
        raise UserError(f"{place} is empty: none of its texts has a token to be masked.")
    return found


def _logits(
    filler: Filler, hidden: Sequence[_Hidden], told: str, kept: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Each text's logits of what was masked [masked, vocabulary].

    Args:
        told: what to say of the progress; empty: nothing.
        kept: the model's own number of each token of the texts, where these are another model's.
    """
    starts = range(0, len(hidden), _AT_A_TIME)
    for start in track(starts, told, len(starts)) if told else starts:
        tokens = [each for each, _ in hidden[start : start + _AT_A_TIME]]
        if kept is not None:
            tokens = [Tokens(kept[each.ids].tolist(), each.type_ids) for each in tokens]
        yield from filler.logits(tokens)


def _of_tokens(scores: Scores) -> dict[str, float]:
    count = max(1, int(scores["masked"].sum()))
    return {
        "accuracy": 100 * float(scores["right"].sum()) / count,
        "masked_perplexity": float(np.exp(scores["nats"].sum() / count)),
    }


def _of_both(scores: Scores) -> dict[str, float]:
    count = max(1, int(scores["masked"].sum()))
    return {
        "kl_nats_per_token": float(scores["nats"].sum()) / count,
        "same_top_token": 100 * float(scores["same"].sum()) / count,
    }
