"""Work without a pause, what sensors tell, and a device's run in a file."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from bench_runs import QUICK, table_text
from click.testing import CliRunner
from onnx_models import encoder_folder
from speeds import make_speed

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.measure.bench import sensors
from edgeprune.measure.bench.compare import measure
from edgeprune.measure.bench.record import Span, Speed, Sustained
from edgeprune.measure.bench.submission import read_submission, submission, submitted

BUILT = Path(__file__).parents[2] / "fixtures" / "first_release" / "encoder" / "bundle"


def test_work_without_a_pause_tells_its_spans(tmp_path: Path) -> None:
    result = measure(encoder_folder(tmp_path), QUICK.model_copy(update={"sustained": 0.5}))
    found = result.sustained
    assert found is not None
    assert len(found.spans) == 10  # tenths of a time below ten minutes
    assert found.seconds >= 0.5
    assert all(span.calls > 0 and span.median_ms > 0 for span in found.spans)
    assert Speed.from_json(result.to_json(), tmp_path, "") == result
    assert f"of work, {found.spans[0].median_ms:.2f} ms at first" in told(result)
    assert measure(encoder_folder(tmp_path / "m"), QUICK).sustained is None


def told(result: Speed) -> str:
    return " ".join(table_text(result).split())


def test_a_board_that_slows_down_is_told(tmp_path: Path) -> None:
    spans = (
        Span(median_ms=8.0, calls=9, megahertz=2400.0, celsius=50.0, throttled=()),
        Span(median_ms=9.0, calls=9, megahertz=1800.0, celsius=80.0, throttled=("too warm",)),
        Span(median_ms=16.0, calls=5, megahertz=1500.0, celsius=85.0, throttled=("throttled",)),
    )
    made = measure(encoder_folder(tmp_path), QUICK)
    result = made.model_copy(
        update={"sustained": Sustained(work="encoder", seconds=600.0, spans=spans)}
    )
    assert (
        "one call: 16.00 ms after 10 min of work, 8.00 ms at first; 1,500 MHz, 2,400 at first; "
        "85 °C, 50 at first; held back: too warm and throttled."
    ) in told(result)


@pytest.mark.parametrize(
    ("state", "expected"),
    [("0", ()), ("0x50005", ("under-voltage", "throttled")), ("8", ("too warm",)), ("?", None)],
)
def test_a_raspberry_pis_state(
    state: str, expected: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits from 16 on are of the past."""
    file = tmp_path / "get_throttled"
    file.write_text(f"{state}\n")
    monkeypatch.setattr(sensors, "_FIRMWARE", file)
    assert sensors.read_sensors().throttled == expected


def test_what_a_system_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> Any:
        raise OSError

    monkeypatch.setattr(psutil, "cpu_freq", silent)
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(sensors, "_FIRMWARE", Path("/nowhere"))
    assert sensors.read_sensors() == sensors.Reading(None, None, None)


def test_the_warmest_sensor_of_the_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    of = [SimpleNamespace(current=each) for each in (41.0, 44.5)]
    other = [SimpleNamespace(current=90.0)]
    chips = {"coretemp": of, "nvme": other}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    assert sensors.read_sensors().celsius == 44.5


def test_a_devices_run_is_written_without_a_place(tmp_path: Path) -> None:
    made = make_speed("feature-extraction")
    found = submission(made, submitted(str(BUILT)))
    found.write(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert str(tmp_path) not in text
    assert read_submission(tmp_path / "run.json").to_json() == json.loads(text)
    assert found.recipe == "encoder"
    content = json.loads(text) | {"format": 2}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="has format 2; this edgeprune reads 1"):
        read_submission(tmp_path / "run.json")


def test_only_a_build_and_one_run_are_submitted(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    with pytest.raises(UserError):
        submitted(str(folder))
    asked = ["bench", str(BUILT), "--tokens", "8,16", "--submit-file"]
    refused = CliRunner().invoke(main, [*asked, str(tmp_path / "f.json")])
    assert refused.exit_code == 2
    assert "one batch, one length" in refused.stderr
