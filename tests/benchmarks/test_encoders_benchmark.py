"""The encoders' benchmark: its rows, its verdicts, and that it goes on where it was interrupted."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx_models import encoder_folder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def encoders(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import encoders

    monkeypatch.setattr(encoders, "RESULTS", tmp_path / "results" / "encoders.jsonl")
    monkeypatch.setattr(encoders, "is_missing", lambda environment: False)
    return encoders


def _result(encoders, row, ratio):
    timed = {"median_ms": 5.0}
    return {
        "name": row.name,
        "row": encoders.asdict(row),
        "goal": row.goal,
        "sts": {"ours": 86.7, "peer": 86.5, "difference": 0.2, "interval": [-0.1, 0.5]},
        "speed": {
            "measures": {
                "encoder": {
                    "ratio": {"value": ratio, "low": ratio - 0.02, "high": ratio + 0.02},
                    "candidate": timed,
                    "baseline": timed,
                }
            }
        },
    }


def test_every_goal_has_a_row_at_one_thread_and_two(encoders):
    rows = list(encoders.rows())
    assert len({row.name for row in rows}) == len(rows) == 40
    wanted = {row.goal for row in rows if row.peer == "OpenVINO INT8"}
    assert wanted == {0.85, None}
    for goal in encoders.GOALS:
        assert {r.threads for r in rows if (r.peer, r.tokens, r.batch) == goal} == {1, 2}


def test_a_goal_is_reached_or_missed_by_the_whole_interval(encoders):
    def verdict(low, high):
        return encoders.verdict({"value": 1.0, "low": low, "high": high}, 0.98)

    assert verdict(0.98, 1.1) == "reached"
    assert verdict(0.9, 0.97) == "missed"
    assert verdict(0.9, 1.0) == "undecided"


def test_it_goes_on_after_the_rows_that_are_there(encoders, monkeypatch, capsys, tmp_path):
    ran = []

    def measure(row, data, work, seconds):
        ran.append(row.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return _result(encoders, row, 0.9 if row.peer == "OpenVINO INT8" else 0.9501)

    monkeypatch.setattr(encoders, "measure", measure)
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["encoders.py", "--only", "1 thread"])
    with pytest.raises(KeyboardInterrupt):
        encoders.main()
    wanted = [row.name for row in encoders.rows() if row.threads == 1]
    kept = [json.loads(line)["name"] for line in encoders.RESULTS.read_text().splitlines()]
    assert kept == wanted[:1]
    encoders.main()
    assert ran == [*wanted[:2], *wanted[1:]]
    table = capsys.readouterr().out
    assert table.count("0.85x, reached") == 2  # dense and in blocks
    assert table.count("0.98x, missed") == 8


def test_a_peers_embeddings_are_means_of_its_own_hidden_states(monkeypatch, tmp_path):
    """run_onnxruntime.py writes them; the oracle is a session of its own."""
    folder = encoder_folder(tmp_path / "e")
    texts = [[3, 4, 5], [6, 7]]
    (tmp_path / "ids.json").write_text(json.dumps(texts))
    script = BENCHMARKS / "peers" / "run_onnxruntime.py"
    output = tmp_path / "answers.npy"
    command = [sys.executable, script, folder, "--embed", tmp_path / "ids.json", output]
    subprocess.run(command, check=True, capture_output=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for ids, got in zip(texts, np.load(output), strict=True):
        feeds = {node.name: np.zeros((1, len(ids)), np.int64) for node in session.get_inputs()} | {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, len(ids)), np.int64),
        }
        [hidden] = session.run(["last_hidden_state"], feeds)
        np.testing.assert_allclose(got, hidden[0].mean(axis=0), rtol=1e-5)
