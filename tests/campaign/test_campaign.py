"""The campaign itself: what it counts as a fault, and that it meets the moments it plans."""

import faulthandler
import importlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("fcntl")  # it needs Linux

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def trust(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import trust

    for name in ("forked", "killed", "kills", "load", "mutate", "patience"):
        importlib.import_module(f"trust.{name}")
    return trust


def _crash() -> None:
    faulthandler.disable()  # pytest's would tell of it at length
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise() -> None:
    raise ValueError("planted")


def _silent() -> None:
    sys.exit(2)


def _fault() -> None:
    sys.exit(70)


def _forever() -> None:
    while True:
        pass


def _waiting() -> None:
    """For a sign that does not come, as an answer of a process that is gone."""
    signal.pause()


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (_crash, "ended by SIGSEGV"),
        (_raise, "a traceback"),
        (_silent, "no sentence"),
        (_fault, "ended with 70"),
        (_forever, "no end within 0.3 s of work"),
        (_waiting, "idle for 0.3 s"),
        (lambda: print("fine"), None),
    ],
)
def test_what_may_not_be_is_a_fault(trust, command, fault):
    bounds = {_forever: {"work": 0.3}, _waiting: {"idle": 0.3}}.get(command, {})
    ended = trust.forked.forked(command, **bounds)
    assert fault == ended.fault or fault in ended.fault
    assert bool(ended.hung) == bool(bounds)


def test_work_is_no_hang_and_neither_is_a_wait_for_a_core(trust, monkeypatch):
    """Of a process that no clock would have been patient with."""
    seconds = iter(range(0, 10_000, 100))
    monkeypatch.setattr(trust.patience.time, "monotonic", lambda: next(seconds))
    process, spent = object(), [0.0]
    monkeypatch.setattr(trust.patience, "_tree", lambda each: [each])
    monkeypatch.setattr(trust.patience, "_cpu_seconds", lambda _: spent[0])
    monkeypatch.setattr(trust.patience, "_is_waiting", lambda _: waits)
    patience, waits = trust.patience.Patience(process), False
    for _ in range(5):
        spent[0] += 1
        assert patience.lost() is None
    waits = True
    for _ in range(5):
        assert patience.lost() is None
    waits = False
    assert patience.lost() == "idle for 10 s"
    spent[0] += 1000
    assert patience.lost() == "no end within 120 s of work"


def test_the_work_of_what_a_process_started_is_its_own(trust):
    """While it runs, and when it has ended."""
    work = "sum(range(20_000_000))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}']); input()"
    with psutil.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        seen = trust.patience.Patience(process, work=0.2)
        while not (lost := seen.lost()):
            assert process.poll() is None
        process.kill()
    assert lost == "no end within 0.2 s of work"
    with psutil.Popen([sys.executable, "-c", ""]) as process:
        assert trust.patience.ended(process) is None


def test_a_command_has_no_more_memory_than_it_may(trust):
    ended = trust.forked.forked(lambda: print(len(bytearray(1 << 36))))
    assert "MemoryError" in ended.said


def test_the_same_number_makes_the_same_input(trust):
    data = json.dumps({"text": "a", "more": [1, 2, {"x": None}]}).encode()
    made = [[trust.mutate.of_json(random.Random(n), data) for n in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 40
    assert data not in made[0][:10]


@pytest.fixture
def watch(trust, monkeypatch):
    """A build's moments as they are counted, and the signals that it would send itself."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _process, number: sent.append(number))
    return lambda plan: (trust.killed.Watch(plan), sent)


def test_a_signal_comes_at_its_moment_of_its_stage(watch):
    plan = {"stage": "cut", "kind": "files", "number": 2, "signal": 15}
    seen, sent = watch(plan)
    for line in ("[1/2] load\n", "      2 s, up to 3 MB of memory so far\n", "[2/2] cut\n"):
        seen.audit("os.mkdir", ("a",))
        seen.audit("os.mkdir", ("b",))
        seen.audit("open", ("read", "r", os.O_RDONLY))
        assert sent == []
        seen.heard(line)
    seen.audit("os.mkdir", ("a",))
    seen.audit("open", ("read", "r", os.O_RDONLY))
    assert sent == []
    seen.audit("open", ("new", "w", os.O_WRONLY))
    assert sent == [15]


def test_what_comes_behind_the_last_stage_is_its_end(watch):
    seen, sent = watch({"stage": "finish", "kind": "files", "number": 1, "signal": 9})
    for line in ("[1/1] load\n", "      kept from an earlier build\n"):
        seen.audit("os.remove", ("a",))
        assert sent == []
        seen.heard(line)
    seen.audit("os.remove", ("a",))
    assert sent == [9]


def test_a_half_bundle_is_noticed(trust, tmp_path):
    from onnx_models import encoder_folder

    from edgeprune.runtime.bundle import write_bundle

    source = encoder_folder(tmp_path / "source")
    graph = source / "model.onnx"
    whole = tmp_path / "out" / "bundle"
    whole.parent.mkdir()
    about = {"task": "feature-extraction", "max_length": 64, "stages": []}
    write_bundle(whole, {"onnx/model.onnx": graph}, source, about)
    found = trust.kills.essence(tmp_path / "out")

    class Place:
        whole, earlier = found, None

    assert trust.kills.faults(Place, tmp_path / "out", "") == []
    (whole / "tokenizer.json").write_bytes((whole / "tokenizer.json").read_bytes()[:-9])
    (fault,) = trust.kills.faults(Place, tmp_path / "out", "")
    assert fault.startswith("half a bundle: ")


def test_a_piece_that_is_there_is_not_done_again(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import campaign

    done: list[int] = []

    def piece(number):
        done.append(number)
        return {"inputs": 3, "codes": {"2": 3}, "wrong": ["planted"] * (number == 1)}

    def pieces(_part, _folder, number):
        yield f"inputs config {number}", lambda: piece(number)

    monkeypatch.setattr(campaign, "pieces", pieces)
    results = tmp_path / "campaign.jsonl"
    for wanted, code in (("1", 0), ("3", 1), ("3", 1)):
        given = ["campaign.py", "inputs", "--pieces", wanted, "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [*given, "--results", str(results)])
        with pytest.raises(SystemExit) as end:
            campaign.main()
        assert int(end.value.code) == code
    assert done == [0, 1, 2]
    assert "planted" in capsys.readouterr().out
    table = campaign.table(campaign.read_results(results))
    assert table.splitlines()[-1] == "| inputs config | 9 inputs | 1 |"


def test_an_endless_answer_is_not_waited_for(trust, monkeypatch):
    """A service that takes a connection and says nothing."""
    import socket

    monkeypatch.setattr(trust.load, "LOOKS", 0.1)
    monkeypatch.setattr(trust.load, "IDLE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = object.__new__(trust.load.Served)
        service.address = silent.getsockname()
        waits = [sys.executable, "-c", "input()"]
        with psutil.Popen(waits, stdin=subprocess.PIPE) as service.process:
            with pytest.raises(TimeoutError, match="idle for"):
                service.ask(b"GET / HTTP/1.1\r\n\r\n")
            service.process.kill()
