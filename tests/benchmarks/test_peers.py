"""The peers' scripts, as far as they run without the peers."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_runs import QUICK
from onnx_models import decoder_folder, encoder_folder

from edgeprune.measure.bench.compare import measure
from edgeprune.measure.bench.resolve import resolve

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


def onnxruntime(folder: Path) -> str:
    script = PEERS / "run_onnxruntime.py"
    return "command:" + shlex.join([sys.executable, str(script), str(folder)])


def test_onnxruntime_runs_what_its_folder_holds(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "e", depth=3)
    result = measure(onnxruntime(folder), QUICK.model_copy(update={"profile": True}))
    assert result.candidate.runtime.startswith("ONNX Runtime 1.")
    assert result.candidate.model_bytes == (folder / "model.onnx").stat().st_size
    assert result.profile["encoder"]["candidate"].operators["MatMul"].count == 3
    with resolve(onnxruntime(decoder_folder(tmp_path / "d"))) as subject:
        assert subject.kinds == ("prompt", "decode")


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(PEERS)
    import common

    monkeypatch.setattr(common, "MODELS", tmp_path / "models")
    return common


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_conversion_is_made_once_in_a_process_of_its_own(tmp_path: Path, common: Any) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"weights")

    def convert(source: Path, folder: Path) -> None:
        (folder / "model").write_text(f"{os.getpid()}")

    first = common.converted(source, "converter 1", convert)
    maker = int((first / "model").read_text())
    assert maker != os.getpid()
    assert common.converted(source, "converter 1", convert) == first
    assert int((first / "model").read_text()) == maker
    assert common.converted(source, "converter 2", convert) != first
    source.write_bytes(b"other weights")
    assert common.converted(source, "converter 1", convert) != first
    assert len(list(common.MODELS.iterdir())) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, common: Any) -> None:
    def convert(source: Path, folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("no")

    with pytest.raises(SystemExit, match="could not be converted by it"):
        common.converted(tmp_path, "it", convert)
    assert list(common.MODELS.iterdir()) == []
