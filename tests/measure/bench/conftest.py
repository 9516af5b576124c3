"""The benchmark's own tests run it as it is."""

from collections.abc import Iterator

import pytest
from forked_workers import start_workers


@pytest.fixture(autouse=True, scope="module")
def _own_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        start_workers(patch)
        yield
