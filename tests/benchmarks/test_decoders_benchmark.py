"""The decoders' benchmark: its rows, and that it goes on where it was interrupted."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def decoders(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import decoders

    monkeypatch.setattr(decoders, "RESULTS", tmp_path / "results" / "decoders.jsonl")
    return decoders


def _result(decoders, row, ratio):
    measured = {
        "ratio": {"value": ratio, "low": ratio - 0.1, "high": ratio + 0.1},
        "candidate": {"tokens_per_second": 200.0},
    }
    return {
        "name": row.name,
        "row": decoders.asdict(row),
        "perplexity": {
            "values": {"perplexity": 24.5},
            "original": {"perplexity": 23.4},
            "peer": {"perplexity": 25.1},
        },
        "speed": {
            "measures": {"prompt": measured, "decode": measured},
            "candidate": {"peak_memory_bytes": 200e6},
            "baseline": {"peak_memory_bytes": 160e6},
        },
    }


def test_every_row_has_a_name_of_its_own(decoders):
    names = [row.name for row in decoders.rows()]
    assert len(set(names)) == len(names) == 2 * 3 * (3 * len(decoders.ARRANGEMENTS) + 2)
    assert "int8, llama.cpp Q4_0, 1 thread, prompt of 128" in names
    assert "int4 in operators, int4 of 32, 2 threads, prompt of 1024" in names


def test_it_goes_on_after_the_rows_that_are_there(decoders, monkeypatch, capsys, tmp_path):
    wanted = [row for row in decoders.rows() if "int8, llama" in row.name]
    ran = []

    def measure(row, data, work, seconds):
        ran.append(row.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return _result(decoders, row, 1.25)

    monkeypatch.setattr(decoders, "measure", measure)
    monkeypatch.setattr(decoders, "is_missing", lambda environment: False)
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["decoders.py", "--only", "int8, llama"])
    with pytest.raises(KeyboardInterrupt):
        decoders.main()
    assert [json.loads(line)["name"] for line in decoders.RESULTS.read_text().splitlines()] == [
        wanted[0].name
    ]
    decoders.main()
    assert ran == [wanted[0].name, wanted[1].name, *(row.name for row in wanted[1:])]
    table = capsys.readouterr().out
    assert table.count("1.25x (1.15 to 1.35)") == 2 * len(wanted)
    assert "| 200 to 160 | 23.40, 24.50, 25.10 |" in table


def test_processor_time_is_told_where_the_machine_was_loud(decoders):
    row = next(decoders.rows())
    result = _result(decoders, row, 1.25)
    decoding = result["speed"]["measures"]["decode"]
    loud = {**decoding, "processor_ratio": {"value": 1.5, "low": 1.4, "high": 1.6}}
    result["speed"]["measures"]["decode"] = loud
    told = "| 1.25x (1.15 to 1.35) | 1.25x (1.15 to 1.35); of processor time 1.50x (1.40 to 1.60) |"
    assert told in decoders.table({row.name: result})


@pytest.mark.parametrize(("tokens", "room"), [(128, 1024), (512, 1024), (1024, 2048)])
def test_llama_cpp_has_room_for_the_prompt_and_every_step(decoders, tokens, room):
    peer = decoders.CONTESTANTS["llama.cpp Q4_0"]
    assert peer.words(decoders.HERE, tokens)[-2:] == ("--context", str(room))
    assert room > tokens + decoders.STEPS


def test_a_row_whose_peer_was_not_made_is_left_out(decoders, monkeypatch):
    monkeypatch.setattr(decoders, "is_missing", lambda environment: environment == "llama.cpp")
    lacking = {row.peer: decoders.lacking(row) for row in decoders.rows()}
    assert lacking == {
        "llama.cpp Q4_0": "llama.cpp",
        "GenAI INT4": "",
        "GenAI INT8": "",
        decoders.FROZEN: "",
    }


def test_what_the_arrangements_tell_a_recipe_is_valid(decoders):
    from edgeprune.pipeline.recipe import read_recipe

    for overrides in decoders.ARRANGEMENTS.values():
        recipe = read_recipe("decoder", ["cut=off", "recover=off", *overrides])
        assert recipe.quantize is not None
        assert recipe.cut is None
