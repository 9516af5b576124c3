"""Clients that live in an environment of their own: optimum and sentence-transformers' ONNX backend
hold transformers below 5 (`make test-clients`)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

CLIENTS = os.environ.get("EDGEPRUNE_CLIENTS")
needs_clients = pytest.mark.skipif(
    CLIENTS is None, reason="EDGEPRUNE_CLIENTS names no Python with optimum (make test-clients)"
)


def in_clients(script: Path, code: str, *given: Any) -> Any:
    """What a client's code prints last, as JSON, run without this project; it finds what it was
    given as `given`."""
    begin = "import json, sys\ngiven = json.loads(sys.argv[1])\n"
    script.write_text(begin + code)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(CLIENTS), str(script), json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
