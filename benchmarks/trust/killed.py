"""`edgeprune build` that sends itself a signal at one moment of one stage.

    python benchmarks/trust/killed.py PLAN build ...

PLAN is a JSON object: "count" names a file to write the number of moments of every stage into, or
"stage", "kind", "number" and "signal" say at which moment the signal comes. Stages are told apart
by their lines of progress; "before" is all until the first, "finish" what comes behind the last.
Moments of the kind "calls" are the calls and returns of functions, Python's and C's, of the main
thread; of the kind "files", every file that is opened to be written, renamed or removed, and every
folder that is made or removed. So the same moment is met on a slow machine and on a fast one.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HELPERS, PACKAGE = ROOT / "tests" / "helpers", str(ROOT / "edgeprune")
_STAGE = re.compile(r"^\[(\d+)/(\d+)\] (\w+)", re.MULTILINE)
_ENDED = re.compile(r"^      (kept from|\d+ s, up to)", re.MULTILINE)
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}


class Watch:
    """Counts the moments of each stage, and sends the signal at the one that was asked for."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._stage, self._last = "before", False
        self.counts: Counter[str] = Counter()
        """By "stage kind"."""
        self._aim = f"{plan['stage']} {plan['kind']}" if "stage" in plan else ""
        self._note()

    def heard(self, text: str) -> None:
        """What is written on standard error: a stage's line begins it."""
        if found := _STAGE.search(text):
            self._stage, self._last = found[3], found[1] == found[2]
        elif self._last and _ENDED.search(text):
            self._stage, self._last = "finish", False
        self._note()

    def _note(self) -> None:
        """Count calls only where they are asked for: that makes everything slower."""
        asked = not self._aim or self._aim == f"{self._stage} calls"
        sys.setprofile(self._profile if asked else None)

    def moment(self, kind: str) -> None:
        """Another moment of the stage that is under way."""
        name = f"{self._stage} {kind}"
        self.counts[name] += 1
        if name == self._aim and self.counts[name] == self._plan["number"]:
            os.kill(os.getpid(), self._plan["signal"])

    def _profile(self, frame: FrameType, event: str, given: Any) -> None:
        # Only edgeprune's own: a build that goes on imports what an earlier stage imported else.
        if frame.f_code.co_filename.startswith(PACKAGE):
            self.moment("calls")

    def audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and _writes(*given)):
            self.moment("files")


def _writes(path: Any, mode: str | None, flags: int, *_rest: Any) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))


class Heard:
    """Standard error, of which every text is told."""

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream, self._watch = stream, watch

    def write(self, text: str) -> int:
        written: int = self._stream.write(text)
        self._stream.flush()
        self._watch.heard(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Run the command."""
    plan, sys.argv[1:] = json.loads(sys.argv[1]), sys.argv[2:]
    sys.path.insert(0, str(HELPERS))
    from short_turns import SHORT

    from edgeprune.__main__ import main as edgeprune
    from edgeprune.measure.bench import rounds

    for name, value in SHORT.items():
        setattr(rounds, name, value)
    watch = Watch(plan)
    # A shell's background job is started deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stderr = Heard(sys.stderr, watch)
    sys.addaudithook(watch.audit)
    try:
        edgeprune()
    finally:
        sys.setprofile(None)
        if "count" in plan:
            Path(plan["count"]).write_text(json.dumps(watch.counts))


if __name__ == "__main__":
    main()
