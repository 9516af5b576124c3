"""What holds for every test: no deadlines, one thread, and a Ctrl-C that is heard."""

import importlib
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import short_turns

from edgeprune.measure.bench import rounds

# A busy machine makes all slow; times say nothing about what is tested.
hypothesis.settings.register_profile(
    "no-deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no-deadline")

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
    """Pictures are painted and not rendered, which takes longest; only the report's tests look."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.report.canvas._render", lambda _figure: empty)
        yield


@pytest.fixture(autouse=True, scope="session")
def _short_turns() -> Iterator[None]:
    """Nothing that a tiny model's times say is looked at, but by tests that ask for `timed`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in short_turns.SHORT.items():
            patch.setattr(rounds, name, value)
        yield


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns as a user's are, after warming up."""
    for name, value in short_turns.LONG.items():
        monkeypatch.setattr(rounds, name, value)
