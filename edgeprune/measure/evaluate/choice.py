"""Multiple choice by likelihood: HellaSwag, PIQA, ARC, MMLU and what has their form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.likelihood import DELIMITER, likelihoods
from edgeprune.measure.evaluate.result import Quality, percentages
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator
from edgeprune.text.files import Row, text_of


@dataclass(frozen=True)
class Item:
    """A question with its choices, of which the one numbered `gold` is right."""

    query: str
    choices: list[str]
    gold: int

    def right(self, logs: np.ndarray) -> bool:
        """Whether the right choice has the largest of the log-likelihoods [choices]."""
        return int(logs.argmax()) == self.gold

    def right_by_length(self, logs: np.ndarray) -> bool:
        """As `right`, each log-likelihood divided by the number of the choice's characters."""
        return self.right(logs / [len(choice) for choice in self.choices])


def choice(bundle: Bundle, data: Data) -> Quality:
    """acc and acc_norm, both times 100, as lm-evaluation-harness defines them.

    acc: the share of items whose right choice has the largest log-likelihood after the query and a
    space. acc_norm: the same with log-likelihoods divided by the choices' lengths in characters.
    `data` has rows with `query`, `choices` (a list of texts) and `gold` (the right one's number).
    """
    rows = data.rows(["query", "choices", "gold"])
    items = read_items(rows, data.place)
    logs = score(Generator(bundle), items)
    scores = {
        "acc": np.array([item.right(log) for item, log in zip(items, logs, strict=True)]),
        "acc_norm": np.array(
            [item.right_by_length(log) for item, log in zip(items, logs, strict=True)]
        ),
    }
    return Quality(scores, percentages, {"items": len(items)}, data.groups(rows))


def read_items(rows: Sequence[Row], place: str) -> list[Item]:
    """The items that rows hold.

    Raises:
        UserError: a row's choices are not a list of texts, or its gold is none of them.
    """
    return [_item(row, place) for row in rows]


def check_rows(rows: Sequence[Row], config: Mapping[str, Any], place: str) -> None:
    """Refuse rows that are not items; see `read_items`."""
    read_items(rows, place)


def score(generator: Generator, items: Sequence[Item]) -> list[np.ndarray]:
    """Log-likelihood of each choice of each item, in nats: [choices] float64 an item."""
    logs: list[np.ndarray] = [np.empty(0)] * len(items)
    # The longest first, so that the time left is never told too short and memory peaks at once.
    order = sorted(range(len(items)), key=lambda i: -len(items[i].query))
    for i in track(order, "choices", len(order)):
        choices = [DELIMITER + choice for choice in items[i].choices]
        logs[i] = np.array([each.log for each in likelihoods(generator, items[i].query, choices)])
    return logs


def _item(row: Row, place: str) -> Item:
    choices, gold = row["choices"], row["gold"]
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice for choice in choices)
    ):
        raise UserError(
            f"{place}: 'choices' must be a list of two texts or more, and is {choices!r} in one "
            f"row."
        )
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise UserError(
            f"{place}: 'gold' must be the right choice's number, 0 to {len(choices) - 1}, and is "
            f"{gold!r} in one row."
        )
    return Item(text_of(row, "query", place), choices, gold)
