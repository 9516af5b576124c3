"""Runs on people's devices as one table, beside what was predicted for them.

    edgeprune bench small/bundle --against small/original --submit-file FILE     # on the device
    python benchmarks/devices.py

Each file in benchmarks/devices/ is one device's run of one bundle. A Raspberry Pi's time stands
beside the range that qemu/predict.py expects of it, for the bundles and lengths that were counted.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "qemu"))

from predict import BOARDS, RESULTS  # noqa: E402
from results_file import ratio_text  # noqa: E402

from edgeprune.measure.bench.submission import Submission, read_submission  # noqa: E402
from edgeprune.measure.works import Work  # noqa: E402

FOLDER = HERE / "devices"
HEAD = (
    "| device | recipe | call | milliseconds | as fast as float32 | MB of memory | sustained "
    "| predicted |"
)


def main() -> None:
    """Print the table."""
    files = sorted(FOLDER.glob("*.json"))
    if not files:
        print(f"No device's run is in {FOLDER} yet.")
        return
    print(table([read_submission(file) for file in files]))


def table(runs: list[Submission]) -> str:
    """The runs as Markdown."""
    rows = [row for run in runs for row in rows_of(run)]
    return "\n".join([HEAD, "|---" * (HEAD.count("|") - 1) + "|", *rows])


def rows_of(run: Submission) -> Iterator[str]:
    """A row for each kind of work of a run."""
    machine, settings = run.machine, run.settings
    device = machine.device or machine.processor or "unknown"
    for work, found in run.measures.items():
        ratio = ratio_text(found.ratio.model_dump()) if found.ratio else ""
        memory = f"{run.peak_memory_bytes / 1e6:.0f}" if run.peak_memory_bytes else ""
        later = ""
        if run.sustained and run.sustained.work == work:
            first, last = run.sustained.spans[0], run.sustained.spans[-1]
            later = (
                f"{last.median_ms:.1f} ms after {run.sustained.seconds / 60:.0f} min, "
                f"{first.median_ms:.1f} at first"
            )
        cells = (
            f"{device}, {settings.threads} thread{'s' if settings.threads > 1 else ''}",
            f"`{run.recipe}`, {settings.tokens} tokens",
            work,
            f"{found.candidate.median_ms:.1f}",
            ratio,
            memory,
            later,
            predicted(run, work),
        )
        yield f"| {' | '.join(cells)} |"


def predicted(run: Submission, work: Work) -> str:
    """The range that was expected of this board, and whether the time lies in it; else nothing."""
    board = next((b for b in BOARDS if f"{b.name} " in f"{run.machine.device or ''} "), None)
    if board is None or run.settings.threads > 1:
        return ""
    counted = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for row in counted:
        same = row["bundle"] == f"{run.recipe}/bundle" and row["tokens"] == run.settings.tokens
        if same and work in row["millions"].get(board.name, {}):
            low, high = board.milliseconds(row["millions"][board.name][work], row["bytes"])
            measured = run.measures[work].candidate.median_ms
            where = "inside" if low <= measured <= high else "outside"
            return f"{low:.0f} to {high:.0f}, {where}"
    return ""


if __name__ == "__main__":
    main()
