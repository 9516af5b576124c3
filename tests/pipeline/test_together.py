"""Processes that accelerate starts train as one does, and a build by them goes on after a death.

Skipped where accelerate is not installed: `make test-cluster` installs it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trained_together
from trained_together import CASES

pytest.importorskip("accelerate", reason="accelerate is not installed: make test-cluster")

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["--main_process_port", "0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models")
    trained_together.make_models(place)
    return place


@pytest.fixture(scope="module")
def by_two(models, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    result = tmp_path_factory.mktemp("by-two") / "found.pt"
    path = os.pathsep.join(filter(None, sys.path))
    command = [*LAUNCH, trained_together.__file__, str(models), str(result)]
    subprocess.run(command, env={**ENVIRONMENT, "PYTHONPATH": path}, check=True, timeout=300)
    return torch.load(result)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, by_two, models):
    alone, together = CASES[case](models), by_two[case]
    assert alone.keys() == together.keys()
    torch.testing.assert_close(together["losses"], alone["losses"], rtol=1e-4, atol=0)
    masks = [name for name in alone if name.startswith("mask ")]
    apart = sum(int((alone[name] != together[name]).sum()) for name in masks)
    allowed = 0 if "gates" in case else 1e-4 * sum(alone[name].numel() for name in masks)
    assert apart <= allowed
    if apart:
        return  # single weights differ then, and what follows from them
    # Softmax does not see a key's bias: its gradient is rounding alone, which Adam makes a step of.
    for name in (name for name in alone if not name.endswith("key.bias")):
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-5)
