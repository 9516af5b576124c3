"""Where the time of one call goes: the runtime's own profile, as shares by type of operator.

Profiling slows the runtime, so it has a process of its own, after everything else was timed.
"""

from typing import Any

from edgeprune.measure.bench.contestants import Contestant
from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.rounds import turn
from edgeprune.measure.bench.settings import BenchSettings

_WARM_CALLS, _CALLS = 2, 8


def profile_of(
    contestant: Contestant, kind: str, settings: BenchSettings, cores: list[int] | None
) -> dict[str, Any]:
    """One kind of work by operator.

    Returns:
        "run_ms" of a profiled run; "operators": for each type, the one that takes most first,
        its "share" of the run (0 to 1), "ms" and "count" of calls in a run; and "outside_share",
        what the runtime, and profiling itself, take between operators. Or "missing", why there is
        no profile.
    """
    with Process(contestant, settings, cores, profile=True) as process:
        if "profile" not in process.hello["does"]:
            return {"missing": f"{process.hello['runtime']} does not tell it"}
        turn(process, kind, _WARM_CALLS + _CALLS, settings)
        runs = settings.decode_steps if kind == "decode" else _CALLS
        found = process.ask("profile", runs=runs)
    whole = found["run_ms"]
    most_first = sorted(found["operators"].items(), key=lambda entry: -entry[1]["ms"])
    operators = {name: {"share": sums["ms"] / whole} | sums for name, sums in most_first}
    inside = sum(entry["share"] for entry in operators.values())
    return {"run_ms": whole, "operators": operators, "outside_share": 1 - inside}
