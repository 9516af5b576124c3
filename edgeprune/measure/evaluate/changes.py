"""Texts, or labels of texts, of which one model is right and the other wrong."""

import numpy as np

from edgeprune.measure.evaluate.result import Change, Changes, Quality


def changed(candidate: Quality, baseline: Quality | None, examples: int = 0) -> Changes | None:
    """Count the texts of each class that were right and are wrong now, and the other way round;
    of texts with several labels, these one by one. None where rows are no texts with classes, or
    the two models' classes are not the same.

    Args:
        examples: how many of those that are wrong now to name, spread over the classes: of each in
            turn, those first that lost most.
    """
    mine, theirs = candidate.classes, baseline and baseline.classes
    if not (mine and theirs and mine.answers and theirs.answers) or mine.names != theirs.names:
        return None
    names, now, before = mine.names, mine.answers, theirs.answers
    kinds, lost, gained = now.kinds, before.right & ~now.right, now.right & ~before.right

    def by_class(turned: np.ndarray) -> dict[str, int]:
        counts = np.bincount(kinds[turned], minlength=len(names))
        return {names[each]: int(counts[each]) for each in np.unique(kinds)}

    def example(case: int) -> Change:
        text = now.text_of(case)
        found = ", ".join(names[each] for each in now.found_in(text))
        return Change(text=now.texts[text], label=names[kinds[case]], found=found or "none")

    more = {}
    if examples:
        more["examples"] = tuple(map(example, _in_turn(kinds, np.flatnonzero(lost))[:examples]))
    return Changes(
        of="label" if now.several else "text",
        right_to_wrong=int(lost.sum()),
        wrong_to_right=int(gained.sum()),
        right_to_wrong_by_class=by_class(lost),
        wrong_to_right_by_class=by_class(gained),
        **more,
    )


def _in_turn(kinds: np.ndarray, cases: np.ndarray) -> list[int]:
    """Cases of each class in turn, the class with most of them first."""
    members = [cases[kinds[cases] == each] for each in np.unique(kinds[cases])]
    members.sort(key=len, reverse=True)
    longest = max(map(len, members), default=0)
    return [int(some[turn]) for turn in range(longest) for some in members if turn < len(some)]
