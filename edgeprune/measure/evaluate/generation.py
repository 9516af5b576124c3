"""Greedy answers, alone or beside the same questions as multiple choice."""

import numpy as np

from edgeprune.base.progress import track
from edgeprune.measure.evaluate.choice import read_items, score
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores, percentages
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.sampling import Sampling
from edgeprune.text.files import text_of


def generation(bundle: Bundle, data: Data) -> Quality:
    """The share of right answers by greedy decoding, and whether choosing would have hidden it.

    `data` has rows with `prompt` and `answer`, or multiple-choice rows (`query`, `choices`, `gold`)
    whose right choice is the answer. All values are times 100.

    exact_match: the share of rows where what follows the prompt begins with the answer as whole
    words; case and the amount of white space do not count.
    For multiple-choice rows also the paired table (Benchmark Illusion, arXiv 2606.17609), where
    choice means `choice`'s acc_norm: the shares both_right, choice_only, greedy_only and
    both_wrong, and illusion: of the items right by choice, the share that greedy decoding gets
    wrong (0 where none is right by choice).
    """
    first = data.rows([])[0]
    if "choices" in first:
        return _beside_choice(bundle, data)
    rows = data.rows(["prompt", "answer"])
    pairs = [
        (text_of(row, "prompt", data.place), text_of(row, "answer", data.place)) for row in rows
    ]
    matches = _matches(Generator(bundle), pairs)
    return Quality({"exact_match": matches}, percentages, {"prompts": len(rows)}, data.groups(rows))


def _beside_choice(bundle: Bundle, data: Data) -> Quality:
    rows = data.rows(["query", "choices", "gold"])
    items = read_items(rows, data.place)
    generator = Generator(bundle)
    chosen = [
        item.right_by_length(logs)
        for item, logs in zip(items, score(generator, items), strict=True)
    ]
    greedy = _matches(generator, [(item.query, item.choices[item.gold]) for item in items])
    scores = {"exact_match": greedy, "acc_norm": np.array(chosen)}
    return Quality(scores, _paired, {"items": len(items)}, data.groups(rows))


def _paired(scores: Scores) -> dict[str, float]:
    greedy, chosen = scores["exact_match"], scores["acc_norm"]
    shares = percentages(
        {
            "exact_match": greedy,
            "acc_norm": chosen,
            "both_right": chosen & greedy,
            "choice_only": chosen & ~greedy,
            "greedy_only": ~chosen & greedy,
            "both_wrong": ~chosen & ~greedy,
        }
    )
    illusion = shares["choice_only"] / shares["acc_norm"] if chosen.any() else 0.0
    return shares | {"illusion": 100 * illusion}


def _matches(generator: Generator, pairs: list[tuple[str, str]]) -> np.ndarray:
    return np.array(
        [
            answers(generator, prompt, answer)
            for prompt, answer in track(pairs, "greedy answers", len(pairs))
        ]
    )


def answers(generator: Generator, prompt: str, answer: str) -> bool:
    """Whether greedy decoding after a prompt begins with the answer as whole words.

    It stops as soon as that is known.
    """
    goal = _plain(answer)
    # A token writes a byte at least; a few more end the answer's last word.
    sampling = Sampling(max_tokens=len(answer.encode()) + 8)
    text = said = ""
    for piece in generator.complete(prompt, sampling):
        text += piece
        said = _plain(text)
        if not goal.startswith(said[: len(goal)]):
            return False
        if len(said) > len(goal):
            break
    ends = not (said[len(goal) - 1 : len(goal)].isalnum() and said[len(goal) :][:1].isalnum())
    return said.startswith(goal) and ends


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
