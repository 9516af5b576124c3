"""Cases that say once more what others say: a few in every run, the rest in `make test-slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], kept: Iterable[Any]) -> list[Any]:
    """All cases, each a value or a tuple of values; those but the kept ones are marked slow."""
    cases, kept = list(cases), set(kept)
    assert kept <= set(cases), kept
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else [case]),
            marks=[] if case in kept else pytest.mark.slow,
        )
        for case in cases
    ]
