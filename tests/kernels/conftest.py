"""The library, and each of its instruction sets that this processor has."""

import ctypes
from pathlib import Path

import pytest
from sparse_models import SETS, library_for_tests


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library_for_tests(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module", params=SETS)
def set_name(request: pytest.FixtureRequest, built: Path) -> str:
    if not ctypes.CDLL(str(built)).edgeprune_supports(request.param.encode()):
        pytest.skip(f"this processor has no {request.param}")
    name: str = request.param
    return name
