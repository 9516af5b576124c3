"""Zero-shot classification: labels that are named at run time, by a classifier of entailment.

Each label becomes a hypothesis that the text may entail (Yin et al., 2019), and is scored by the
logit of the model's label `entailment`, as transformers' zero-shot pipeline does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.runtime.logits import softmax
from edgeprune.text.pairs import checked, listed

TEMPLATE = "This example is {}."
"""The hypothesis, with the label in place of the braces."""
PLACE = "{}"
"""Stands in it for the label."""


@dataclass(frozen=True)
class ZeroShot:
    """Labels with their scores, the likeliest first."""

    labels: list[str]
    scores: list[float]


def hypotheses(
    texts: Sequence[str], labels: Sequence[str], template: str = TEMPLATE
) -> list[tuple[str, str]]:
    """A pair of each text with each label's hypothesis, text by text.

    Raises:
        UserError: there is no label, or the template has no place for one.
    """
    labels = listed(labels, "Labels")
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise UserError("Zero-shot classification needs labels, none of them empty, each a text.")
    found = [_hypothesis(template, label) for label in labels]
    given = checked(texts)
    single = [text for text in given if isinstance(text, str)]
    if len(single) < len(given):
        raise UserError(
            "Zero-shot classification pairs each text with its labels itself: give single texts."
        )
    return [(text, hypothesis) for text in single for hypothesis in found]


def ranked(
    logits: np.ndarray, names: Sequence[str], labels: Sequence[str], multi_label: bool = False
) -> list[ZeroShot]:
    """The scores of each text's labels.

    Args:
        logits: of the pairs that `hypotheses` makes, [texts * labels, the model's labels].
        names: of the model's labels.
        multi_label: whether each label is true or not by itself: its entailment against its
            contradiction. Otherwise, of several, the scores add up to 1.

    Raises:
        UserError: no label of the model is called entailment.
    """
    entailed = entailment_of(names)
    table = logits.reshape(-1, len(labels), len(names))
    if multi_label or len(labels) == 1:
        contradicted = len(names) - 1 if entailed == 0 else 0
        scores = softmax(table[..., [contradicted, entailed]])[..., 1]
    else:
        scores = softmax(table[..., entailed])
    found = []
    for row in scores:
        order = np.argsort(-row, kind="stable")
        found.append(ZeroShot([labels[index] for index in order], row[order].tolist()))
    return found


def entailment_of(names: Sequence[str]) -> int:
    """The number of a model's label that says that a text entails a hypothesis.

    Raises:
        UserError: there is none.
    """
    for number, name in enumerate(names):
        if name.lower().startswith("entail"):
            return number
    raise UserError(
        f"Labels at run time need a model of entailment, and this one's labels are "
        f"{', '.join(names)}: give it a label called entailment in config.json's id2label, if it "
        "was trained on such pairs."
    )


def _hypothesis(template: str, label: str) -> str:
    # Not by str.format, whose fields reach into objects and write any number of spaces.
    if template.count(PLACE) != 1:
        raise UserError(
            f"The hypothesis {template!r:.60} has no place for a label, or several: write {PLACE} "
            "where it belongs, once."
        )
    return template.replace(PLACE, label)
