"""Times that were measured on this machine, in the user's cache folder.

    CACHE/edgeprune/times/FINGERPRINT/machine.json       what the fingerprint stands for
                                      blocks/NAME.json   times of blocks (block_times.py)
                                      format_times/TARGET.json, tables/TARGET.json

The two last are read instead of the tables that ship, where a build is for this machine's own
target; `edgeprune calibrate` writes all. Another processor, ONNX Runtime or number of threads has
another fingerprint, and so finds nothing.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeprune.base import processor
from edgeprune.base.files import replace_file
from edgeprune.base.places import cache_folder


def facts(threads: int) -> dict[str, Any]:
    """The facts that decide how long a product takes on this machine."""
    found = processor.processor()
    return {
        "processor": found.get("brand_raw"),
        "architecture": platform.machine(),
        "flags": sorted(processor.flags()),
        "onnxruntime": version("onnxruntime"),
        "threads": threads,
    }


def fingerprint(machine: Mapping[str, Any]) -> str:
    """A short hash of a machine's facts."""
    text = json.dumps(machine, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def times_folder() -> Path:
    """The folder of all machines' times."""
    return cache_folder() / "times"


def place(kind: str, name: str, machine: Mapping[str, Any]) -> Path:
    """The file of a table, which may not be there.

    Args:
        kind: what it holds times of, as a folder's name.
        name: the model or target that it is for.
        machine: the facts of the machine whose times they are.
    """
    return times_folder() / fingerprint(machine) / kind / f"{name}.json"


def keep(content: Mapping[str, Any], kind: str, name: str, machine: Mapping[str, Any]) -> Path:
    """Write a table, whole or not at all; returns its file.

    Raises:
        UserError: nothing may be written there.
    """
    file = place(kind, name, machine)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file.parents[1] / "machine.json", json.dumps(machine, indent=1) + "\n")
    replace_file(file, json.dumps(content, indent=1) + "\n")
    return file
