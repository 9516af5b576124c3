"""What holds for every test: no deadlines, one thread, and a Ctrl-C that is heard."""

import importlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import short_turns
from forked_workers import fork_workers, start_workers

from edgeprune.measure.bench import rounds
from edgeprune.report import canvas

# A busy machine makes all slow; times say nothing about what is tested.
hypothesis.settings.register_profile(
    "no-deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no-deadline")

# How many times the examples that a test asks for: `make test-slow` looks for the rare ones, and a
# sanitizer's library takes so much longer.
FACTORS = {"thorough": 30.0, "sanitized": 0.1}
for _name in FACTORS:
    hypothesis.settings.register_profile(_name, hypothesis.settings.get_profile("no-deadline"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A profile knows no factor, and what a test asks for itself stands above any profile."""
    factor = FACTORS.get(hypothesis.settings.get_current_profile_name())
    if factor is None:
        return
    functions = {getattr(item, "function", None) for item in items}
    for function in functions:
        if getattr(function, "is_hypothesis_test", False):
            own = function._hypothesis_internal_use_settings
            count = max(1, round(own.max_examples * factor))
            changed = hypothesis.settings(own, max_examples=count)
            function._hypothesis_internal_use_settings = changed


# A shell's background job is started deaf to Ctrl-C, and would hand that on to what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread(pytestconfig: pytest.Config) -> None:
    """Tiny models are slower on many threads, and the machine may have other work."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _consoles() -> None:
    """A console asks for the terminal's width when it is made: before any test sets another."""
    importlib.import_module("edgeprune.base.progress")
    importlib.import_module("edgeprune.pipeline.terminal")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Times that were measured on the machine that runs the tests plan nothing in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _undrawn() -> Iterator[None]:
    """A page has empty pictures: they take longest of it. Only the report's tests look."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
    painted: set[str] = set()
    drawn = canvas._drawn

    def once(name: str, height: float, paint: Callable[[Any], None]) -> str:
        """Each picture is painted the first time, without being rendered."""
        if paint.__module__ not in painted:
            painted.add(paint.__module__)
            drawn(name, height, paint)
        return empty

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "_render", lambda _figure: empty)
        patch.setattr(canvas, "_drawn", once)
        yield


@pytest.fixture(autouse=True, scope="session")
def _short_turns() -> Iterator[None]:
    """Nothing that a tiny model's times say is looked at, but by tests that ask for `timed`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in short_turns.SHORT.items():
            patch.setattr(rounds, name, value)
        fork_workers(patch)
        yield


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns as a user's are, after warming up."""
    for name, value in short_turns.LONG.items():
        monkeypatch.setattr(rounds, name, value)
    start_workers(monkeypatch)
