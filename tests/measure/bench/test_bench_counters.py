import os
import stat
import sys
from pathlib import Path

import pytest
from bench_runs import QUICK, table_text
from onnx_models import decoder_folder, encoder_folder

from edgeprune.measure.bench import counters
from edgeprune.measure.bench.compare import compare, measure
from edgeprune.measure.bench.counters import read_counts, why_missing
from edgeprune.measure.bench.record import Missing

COUNTING = QUICK.model_copy(update={"counters": True})

# Runs its command like perf and counts its requests: 5,000,000 instructions for starting and
# 70,000 for each call or step; half as many cycles.
PERF = f"""#!{sys.executable}
import json, subprocess, sys
output = sys.argv[sys.argv.index("-o") + 1]
assert sys.argv[sys.argv.index("-e") + 1] == "instructions:u,cycles:u"
command = sys.argv[sys.argv.index("--") + 1 :]
child = subprocess.Popen(command, stdin=subprocess.PIPE)
calls = 0
while "worker" in str(command) and (line := sys.stdin.readline()):
    child.stdin.write(line.encode())
    child.stdin.flush()
    request = json.loads(line)
    calls += request.get("calls", 0) + request.get("steps", 0)
child.stdin.close()
code = child.wait()
total = 5_000_000 + 70_000 * calls
with open(output, "w") as file:
    file.write("# started on some day\\n\\n")
    file.write(f"{{total}},,instructions:u,1000,100.00,0.5,insn per cycle\\n")
    file.write(f"{{total // 2}},,cycles:u,1000,100.00,,\\n")
sys.exit(code)
"""


@pytest.fixture
def fake_perf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "perf"
    script.parent.mkdir()
    script.write_text(PERF)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("fake_perf")
def test_what_starting_and_loading_take_is_subtracted(tmp_path: Path) -> None:
    encoder = encoder_folder(tmp_path / "e")
    counted = compare(encoder, encoder, COUNTING).counters["encoder"]
    per_call = {"instructions": 70_000, "cycles": 35_000}
    assert counted == {"candidate": per_call, "baseline": per_call}
    result = measure(decoder_folder(tmp_path / "d"), COUNTING)
    # Filling the cache before the steps is subtracted too.
    assert result.counters == {
        "prompt": {"candidate": per_call},
        "decode": {"candidate": per_call},
    }
    assert "next token, instructions" in table_text(result)


def test_counts_are_real_or_their_absence_is_explained(tmp_path: Path) -> None:
    light = encoder_folder(tmp_path / "light", depth=2, width=256)
    heavy = encoder_folder(tmp_path / "heavy", depth=40, width=256)
    result = compare(light, heavy, COUNTING)
    if why := why_missing():
        assert result.counters == Missing(missing=why)
        assert "No instructions and cycles: " in table_text(result)
        pytest.skip(why)
    found = result.counters["encoder"]
    assert 5 < found["baseline"]["instructions"] / found["candidate"]["instructions"] < 25


def test_a_machine_without_perf_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    assert why_missing() == "perf is not installed"


def test_what_was_not_counted_is_left_out_and_two_kinds_of_cores_are_summed() -> None:
    text = """# started on Sun Nov 22 03:02:39 2026

<not supported>,,instructions:u,0,100.00,,
1200,,cpu_core/cycles/u,10,100.00,,
34,,cpu_atom/cycles/u,10,100.00,,
"""
    assert read_counts(text) == {"cycles": 1234}
    assert read_counts("<not counted>,,cycles:u,0,0.00,,\n") == {}
