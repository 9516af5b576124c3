"""Turns of a few calls, from the first: timing takes the most of a tiny model's build, and says
nothing. Run as a program, this is the command line with such turns.
"""

from edgeprune.measure.bench import rounds

SHORT = {"_WARM_SECONDS": 0.0, "_MAX_CALLS_A_TURN": 3}
LONG = {name: getattr(rounds, name) for name in SHORT}
"""As a user's are."""

if __name__ == "__main__":
    from edgeprune.__main__ import main

    for name, value in SHORT.items():
        setattr(rounds, name, value)
    main()
