"""Clients that live in environments of their own (`make test-clients`): optimum and
sentence-transformers' ONNX backend, which hold transformers below 5, and transformers.js."""

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


NODE = os.environ.get("EDGEPRUNE_NODE")
needs_node = pytest.mark.skipif(
    NODE is None, reason="EDGEPRUNE_NODE names no folder with transformers.js (make test-clients)"
)


CHROMIUM = os.environ.get("EDGEPRUNE_CHROMIUM", "/usr/bin/chromium")
needs_browser = pytest.mark.skipif(
    NODE is None or not Path(CHROMIUM).is_file(),
    reason="EDGEPRUNE_NODE names no folder with transformers.js and playwright-core (make "
    "test-clients), or there is no Chromium: EDGEPRUNE_CHROMIUM may name it",
)


def in_node(script: Path, code: str, *given: Any) -> Any:
    """What a script prints last, as JSON; it finds transformers.js as `t` and what it was given as
    `given`."""
    module = Path(str(NODE)) / "node_modules/@huggingface/transformers/src/transformers.js"
    begin = f'import * as t from "{module.absolute()}";\nconst given = JSON.parse(process.argv[2]);'
    offline = 't.env.allowRemoteModels = false;\nt.env.localModelPath = "";'
    script.write_text(f"{begin}\n{offline}\n{code}")
    words = ["node", str(script), json.dumps(given)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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
