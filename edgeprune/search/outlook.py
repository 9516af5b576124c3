"""The gain that more training would bring, estimated from a model's brief and its long training.

Both had a whole schedule, on shapes of the same layers. The loss on held-out text is taken to fall
as a power of the minutes, which goes through both.
"""

import math

from edgeprune.search.record import Found, SearchRecord

_APART = 1.5
"""Two trainings whose lengths differ by less say nothing of longer ones."""


def with_twice_the_training(record: SearchRecord, found: Found) -> tuple[float, float] | None:
    """Minutes that a model's last training would take at twice its length, and the held-out loss
    that would then be left; None where its candidates tell nothing."""
    brief = [trial for trial in record.trials if trial.of == found.name]
    chosen = [trial for trial in brief if trial.chosen]
    long = found.minutes - sum(trial.minutes for trial in brief)
    if not chosen or min(chosen[0].minutes, chosen[0].held_out, found.held_out) <= 0:
        return None
    longer = long / chosen[0].minutes
    if longer < _APART or found.held_out >= chosen[0].held_out:
        return None
    power = math.log(found.held_out / chosen[0].held_out) / math.log(longer)
    return 2 * long, found.held_out * 2**power


def outlook(record: SearchRecord, found: Found) -> str | None:
    """The same in a sentence."""
    if (twice := with_twice_the_training(record, found)) is None:
        return None
    minutes, left = twice
    return (
        f"More time: {found.name} has a held-out loss of {found.held_out:.3g}; with twice the "
        f"training, {minutes:.0f} minutes, about {left:.3g} would be left (an estimate from its "
        "brief training)."
    )
