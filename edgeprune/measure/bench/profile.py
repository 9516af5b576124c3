"""The time of one call by operator: the runtime's own profile, as shares by type of operator.

Profiling slows the runtime, so it has a process of its own, after everything else was timed.
"""

from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.record import Missing, Profile, Spent
from edgeprune.measure.bench.rounds import turn
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import Subject
from edgeprune.measure.works import Work

_WARM_CALLS, _CALLS = 2, 8


def profile_of(
    subject: Subject, kind: Work, settings: BenchSettings, cores: list[int] | None
) -> Profile | Missing:
    """One kind of work by operator, or why there is no profile."""
    with Process(subject, settings, cores, profile=True) as process:
        if "profile" not in process.hello["does"]:
            return Missing(missing=f"{process.hello['runtime']} does not tell it")
        turn(process, kind, _WARM_CALLS + _CALLS, settings)
        runs = settings.decode_steps if kind == "decode" else _CALLS
        found = process.ask("profile", runs=runs)
    whole = found["run_ms"]
    most_first = sorted(found["operators"].items(), key=lambda entry: -entry[1]["ms"])
    operators = {name: Spent(share=sums["ms"] / whole, **sums) for name, sums in most_first}
    inside = sum(spent.share for spent in operators.values())
    layers = dict(found.get("layers", {}))
    return Profile(run_ms=whole, operators=operators, outside_share=1 - inside, layers=layers)
