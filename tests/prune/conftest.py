import hypothesis
import pytest
import torch

# A first call may wait for a busy machine; times say nothing about these functions.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
