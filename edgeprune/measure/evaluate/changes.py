"""Texts that one model classifies rightly and the other wrongly."""

import numpy as np

from edgeprune.measure.evaluate.result import Change, Changes, Quality


def changed(candidate: Quality, baseline: Quality | None, examples: int = 0) -> Changes | None:
    """Count the texts of each class that were right and are wrong now, and the other way round;
    None where rows are no texts of a class each, or the two models' classes are not the same.

    Args:
        examples: how many of the texts that are wrong now to name, spread over the classes: of
            each in turn, those first that lost most.
    """
    mine, theirs = candidate.classes, baseline and baseline.classes
    if not (mine and theirs and mine.answers and theirs.answers) or mine.names != theirs.names:
        return None
    names, now, before = mine.names, mine.answers, theirs.answers
    lost, gained = before.right & ~now.right, now.right & ~before.right

    def by_class(turned: np.ndarray) -> dict[str, int]:
        counts = np.bincount(now.truth[turned], minlength=len(names))
        return {names[each]: int(counts[each]) for each in np.unique(now.truth)}

    more = {}
    if examples:
        more["examples"] = tuple(
            Change(
                text=now.texts[row],
                label=names[now.truth[row]],
                found=names[now.found[row]],
            )
            for row in _in_turn(now.truth, np.flatnonzero(lost))[:examples]
        )
    return Changes(
        right_to_wrong=int(lost.sum()),
        wrong_to_right=int(gained.sum()),
        right_to_wrong_by_class=by_class(lost),
        wrong_to_right_by_class=by_class(gained),
        **more,
    )


def _in_turn(truth: np.ndarray, rows: np.ndarray) -> list[int]:
    """Rows of each class in turn, the class with most rows first."""
    members = [rows[truth[rows] == each] for each in np.unique(truth[rows])]
    members.sort(key=len, reverse=True)
    longest = max(map(len, members), default=0)
    return [int(some[turn]) for turn in range(longest) for some in members if turn < len(some)]
