"""The environment of optimum's exporter, apart from this one: it holds transformers below 4.58.

Its Python is named by the variable EDGEPRUNE_OPTIMUM, and not in a recipe, which may come from
anywhere and must not say what runs here. No torch here: a dry run asks what is installed there.
"""

import functools
import json
import os
import subprocess
from collections.abc import Mapping

from edgeprune.base.errors import UserError

VARIABLE = "EDGEPRUNE_OPTIMUM"
_NEEDED = {"optimum-onnx": "0.1.", "transformers": "4.", "torch": "2."}
"""Packages of the environment, and how their versions begin."""
_INSTALL = (
    "`python -m venv .venv-clients && .venv-clients/bin/pip install -r constraints-clients.txt` in "
    f"a checkout of edgeprune makes such an environment; set {VARIABLE} to its bin/python"
)
_VERSIONS = """
import json, sys
from importlib.metadata import distributions
installed = {each.name.lower(): each.version for each in distributions()}
print(json.dumps({name: installed.get(name) for name in sys.argv[1:]}))
"""
_SECONDS = 60
"""Longest time that the environment may take to tell its versions."""


def optimum_python() -> str:
    """The environment's Python.

    Raises:
        UserError: none is named.
    """
    python = os.environ.get(VARIABLE)
    if not python:
        raise UserError(f"export.by: optimum needs an environment of its own: {_INSTALL}.")
    return python


def optimum_versions() -> Mapping[str, str]:
    """Versions of the environment's packages.

    Raises:
        UserError: there is no such environment, or it holds other versions.
    """
    python = optimum_python()
    found = _versions(python)
    lacking = [name for name, start in _NEEDED.items() if not (found[name] or "").startswith(start)]
    if lacking:
        name = lacking[0]
        has = f"{name} {found[name]}" if found[name] else f"no {name}"
        raise UserError(
            f"export.by: optimum needs {name} {_NEEDED[name]}x, and the environment of {python}, "
            f"which {VARIABLE} names, has {has}: {_INSTALL}."
        )
    return {name: str(version) for name, version in found.items()}


@functools.cache
def _versions(python: str) -> dict[str, str | None]:
    try:
        done = subprocess.run(
            [python, "-I", "-c", _VERSIONS, *_NEEDED],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
        )
        found: dict[str, str | None] = json.loads(done.stdout)
        return {name: found[name] for name in _NEEDED}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{VARIABLE} names {python}, which does not answer as a Python: {_INSTALL}."
        ) from error
