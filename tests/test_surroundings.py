"""A root that is read-only, no home, no network, another user: as a container or a unit has it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIRST = Path(__file__).parent / "fixtures" / "first_release" / "encoder"
BUNDLE, NOBODY = FIRST / "bundle", "65534"
COSINE = ("--task", "cosine", "--data", FIRST / "texts.txt", "--against", FIRST / "original")
COMMANDS = {
    ("run", BUNDLE, "w001 w002", "--json"): 0,
    ("inspect", BUNDLE): 0,
    ("recipes",): 0,
    ("evaluate", BUNDLE, *COSINE): 0,
    ("doctor",): 0,
    ("bench", BUNDLE, "--time-limit", "0.1"): 2,
    ("check", BUNDLE, "--save", "/saved.json"): 2,
    ("report", FIRST, "--output", "/page.html"): 2,
}
"""Exit codes; the last need a file that may be written."""
CODE = f"""
import json, os, socket, sys, tempfile
from pathlib import Path
from click.testing import CliRunner
from edgeprune.cli import main
try:
    socket.create_connection(("192.0.2.1", 9), timeout=1)
    reached = True
except OSError as error:
    reached = isinstance(error, TimeoutError)
facts = {{"user": os.getuid(), "home": Path.home().exists(), "reached": reached}}
facts["writes"] = [place for place in ("/", "/tmp", {str(FIRST)!r}) if os.access(place, os.W_OK)]
ended = []
for words in {[[str(word) for word in command] for command in COMMANDS]!r}:
    done = CliRunner().invoke(main, words)
    fault = done.exception if not isinstance(done.exception, SystemExit) else None
    ended.append([done.exit_code, done.stdout, done.stderr, repr(fault)])
print(json.dumps([facts, ended]))
"""
LOCKED = 'mount --bind / / && mount -o remount,ro,bind / && exec "$@"'
# Nobody may look into folders of root's, where this Python may lie, and may write into none.
OTHER = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
LOOKS = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def apart(*command: str) -> list[str]:
    """A command in namespaces of its own, where this machine lets us have them."""
    root = os.name == "posix" and os.getuid() == 0
    own = ["unshare", *([] if root else ["--map-root-user"]), "--net", "--mount"]
    other = [*OTHER, *LOOKS] if root and shutil.which("setpriv") else []
    return [*own, "sh", "-c", LOCKED, "sh", *other, *command]


def test_commands_need_no_file_home_network_or_user_of_their_own():
    if not shutil.which("unshare") or subprocess.run(apart("true"), check=False).returncode:
        pytest.skip("this machine gives no namespaces of one's own")
    around = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    around["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = apart(sys.executable, "-P", "-c", CODE)
    done = subprocess.run(command, capture_output=True, text=True, env=around, check=False)
    assert done.returncode == 0, done.stderr
    facts, ended = json.loads(done.stdout.splitlines()[-1])
    assert not facts["home"]
    assert not facts["reached"]
    assert facts["writes"] == []
    assert facts["user"] == (int(NOBODY) if os.getuid() == 0 else 0)  # as which it is mapped
    for (name, *_), (code, out, said, fault), wanted in zip(
        COMMANDS, ended, COMMANDS.values(), strict=True
    ):
        assert (name, code, fault) == (name, wanted, "None"), said
        if code == 2:
            assert said.strip().splitlines()[-1].startswith("edgeprune: "), said
        if name == "doctor":
            assert "temporary files" in " ".join(out.split())
    kept = json.loads((FIRST / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert json.loads(ended[0][1]).keys() >= kept.keys() - {"id"}
