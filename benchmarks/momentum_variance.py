"""Does momentum-variance pruning help? The trial that decides, by a rule set down before it.

    python benchmarks/momentum_variance.py --tier 0 [--seconds N]
    EDGEPRUNE_DATA=<folder> python benchmarks/momentum_variance.py --tier 1 [--seconds N]
    python benchmarks/momentum_variance.py --list     # what is left, and how long it may take
    python benchmarks/momentum_variance.py --table

The rule stands in trial/rule.py. Tier 0 is a small network on a synthetic task: all arms of a seed
and condition train at once, on one thread, those first that the rule speaks of. Tier 1 prunes
single weights of MiniLM while it is distilled, and reads STS-B dev.

One line of JSON in benchmarks/results/momentum_variance.jsonl for each seed, condition and block of
arms of tier 0, and for each run of tier 1; what is there is not run again. The tables and the
verdict go to momentum_variance.md beside it and the figure to momentum_variance.svg. Needs
`pip install '.[build,benchmarks]'`.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from results_file import add_result, read_results
from trial.design import BLOCKS, Arm, tier0, tier1
from trial.report import draw, report

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "momentum_variance.jsonl"
SECONDS = {0: 7.0, 1: 120.0}
"""Of a job, on one quiet core, until jobs that are there say better."""


_ARM = [field.name for field in fields(Arm)]


@dataclass(frozen=True)
class Job:
    """Arms of one seed and condition that run together, and become one line."""

    tier: int
    part: str
    seed: int
    condition: str
    arms: tuple[Arm, ...]

    @property
    def name(self) -> str:
        """What tells a line from all others."""
        return f"tier {self.tier}, {self.part}, {self.condition}, {self.seed}"


def jobs(tier: int) -> list[Job]:
    """Every job of a tier, in the order in which they run."""
    if tier == 0:
        return [Job(0, part, seed, name, BLOCKS[part]) for part, seed, name in tier0()]
    return [
        Job(1, f"{arm.budget} {arm.averages} {arm.saliency}", seed, name, (arm,))
        for arm, seed, name in tier1()
    ]


def main() -> None:
    """Run what is not there yet, then print and draw what is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", type=int, choices=(0, 1), help="run the missing jobs of a tier")
    parser.add_argument("--seconds", type=float, help="begin no job after this time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print what is left, run nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    if given.list:
        print("\n".join(left(read_results(given.results))))
        return
    if given.tier is None and not given.table:
        parser.error("give --tier 0, --tier 1, --list or --table")
    if given.tier == 1 and not os.environ.get("EDGEPRUNE_DATA"):
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    if given.tier is not None and not given.table:
        fill(given.results, given.tier, given.seconds)
    rows = list(arm_rows(read_results(given.results)))
    if not rows:
        sys.exit(f"{given.results} holds no run yet.")
    text = report(rows)
    given.results.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    draw(rows, given.results.with_suffix(".svg"))
    print(text)


def fill(file: Path, tier: int, seconds: float | None = None) -> None:
    """Run the jobs of a tier that the file does not hold, and add a line for each."""
    missing = absent(tier, read_results(file))
    began = time.monotonic()
    for number, job in enumerate(missing, start=1):
        if seconds is not None and time.monotonic() - began > seconds:
            print(f"{len(missing) - number + 1} jobs are left", file=sys.stderr)
            return
        started = time.monotonic()
        rows = run(job)
        line = {
            "name": job.name,
            "tier": tier,
            "seed": job.seed,
            "condition": job.condition,
            "arms": rows,
            "seconds": round(time.monotonic() - started, 1),
        }
        add_result(file, line)
        print(f"[{number}/{len(missing)}] {job.name}: {line['seconds']} s", file=sys.stderr)


def run(job: Job) -> list[dict[str, Any]]:
    """A row for each of its arms."""
    if job.tier == 0:
        import torch
        from trial import synthetic

        torch.set_num_threads(1)
        return synthetic.run(job.seed, job.condition, job.arms)
    from trial import minilm

    return [minilm.run(*job.arms, job.condition, job.seed, Path(os.environ["EDGEPRUNE_DATA"]))]


def absent(tier: int, lines: Mapping[str, Any]) -> list[Job]:
    """The jobs of a tier of which an arm is in no line."""
    done = {
        (row["tier"], row["seed"], row["condition"], *(row[name] for name in _ARM))
        for row in arm_rows(lines)
    }
    return [
        job
        for job in jobs(tier)
        if not done.issuperset((tier, job.seed, job.condition, *astuple(arm)) for arm in job.arms)
    ]


def arm_rows(lines: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each arm of each line."""
    for line in lines.values():
        where = {name: line[name] for name in ("tier", "seed", "condition")}
        yield from ({**where, **arm} for arm in line["arms"])


def left(lines: Mapping[str, Any]) -> Iterator[str]:
    """A line a tier: how many jobs are left, and how long they are likely to take."""
    for tier, usual in SECONDS.items():
        took = [line["seconds"] for line in lines.values() if line["tier"] == tier]
        each = statistics.median(took) if took else usual
        missing, all_of_them = absent(tier, lines), jobs(tier)
        minutes = len(missing) * each / 60
        yield (
            f"tier {tier}: {len(missing)} of {len(all_of_them)} jobs are left, "
            f"{minutes:.0f} minutes"
        )


if __name__ == "__main__":
    main()
