"""Cases that say once more what others say: a few in every run, the rest in `make test-slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """All cases, those but the kept ones marked slow."""
    cases = list(cases)
    assert set(kept) <= set(cases), kept
    return [case if case in kept else pytest.param(case, marks=pytest.mark.slow) for case in cases]
