"""What holds for every test: no deadlines, one thread, and a Ctrl-C that is heard."""

import signal

import hypothesis
import pytest

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
