"""The real process over loopback: many clients, leavers, slow ones, and its end."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the service's extra is not installed")

import httpx
from onnx_models import WORDS, decoder_folder, encoder_folder
from services import process

from edgeprune import runtime

# Wide enough that one text takes some milliseconds, so that others meet in line.
DEPTH, WIDTH = 6, 768


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("served") / "e", depth=DEPTH, width=WIDTH)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "d"
    return decoder_folder(folder, max_position_embeddings=100_000)


def metric(address: str, name: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(1 + number % 9))


def test_many_at_once_get_their_own_answers_and_run_together(encoder):
    texts = [[sentence(3 * i + j) for j in range(1 + i % 3)] for i in range(40)]

    async def ask(address: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            asked = (client.post("/embed", json={"texts": some}) for some in texts)
            return await asyncio.gather(*asked)

    with process(encoder, "--threads", "1") as (_, address):
        found = asyncio.run(ask(address))
        batches = metric(address, "edgeprune_batch_texts_count")
        total = metric(address, "edgeprune_batch_texts_sum")
    model = runtime.load(encoder, threads=1)
    for answer, some in zip(found, texts, strict=True):
        assert answer.status_code == 200
        expected = model.embed(some, batch_size=1)
        np.testing.assert_allclose(answer.json()["embeddings"], expected, rtol=1e-3, atol=1e-5)
    assert total == sum(map(len, texts))
    assert batches < total / 2


def test_beyond_the_limit_is_503_and_health_still_answers(decoder):
    with process(decoder, "--max-concurrent", "1", "--max-new-tokens", "50000") as (_, address):
        asked = {"prompt": "the cat", "max_tokens": 50_000}
        with httpx.stream("POST", f"{address}/generate", json=asked, timeout=30) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            refused = httpx.post(f"{address}/generate", json=asked)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert httpx.get(f"{address}/health").status_code == 200
        # The stream's client has left: its place is free, and no more words are made for it.
        until(lambda: metric(address, "edgeprune_requests_running") == 0)
        short = {"prompt": "the cat", "max_tokens": 3, "stream": False}
        assert httpx.post(f"{address}/generate", json=short).json()["tokens"] == 3


def test_a_client_that_leaves_while_waiting_takes_its_request_along(decoder):
    with process(decoder, "--max-new-tokens", "50000") as (_, address):
        asked = {"prompt": "the cat", "max_tokens": 50_000}
        with httpx.stream("POST", f"{address}/generate", json=asked, timeout=30) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/generate", json=asked, timeout=0.3)
            until(lambda: metric(address, "edgeprune_requests_running") == 1)
            assert metric(address, "edgeprune_texts_waiting") == 0
            left = 'edgeprune_requests_total{path="/generate",status="499"}'
            assert metric(address, left) == 1


def test_a_slow_body_and_a_late_answer_are_ended(decoder):
    options = ("--body-seconds", "0.3", "--answer-seconds", "0.3", "--max-new-tokens", "50000")
    with process(decoder, *options) as (_, address):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            assert b" 408 " in slow.recv(1000)
        asked = {"prompt": "the cat", "max_tokens": 50_000}
        with httpx.stream("POST", f"{address}/generate", json=asked, timeout=30) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            late = httpx.post(f"{address}/generate", json=asked, timeout=30)
            assert late.status_code == 503
            assert "within 0.3 s" in late.json()["error"]


def test_a_text_without_end_is_ended_in_time(decoder):
    options = ("--generate-seconds", "0.5", "--max-new-tokens", "90000")
    with process(decoder, *options) as (_, address):
        asked = {"prompt": "the cat", "max_tokens": 90_000, "stream": False}
        found = httpx.post(f"{address}/generate", json=asked, timeout=30)
        assert found.json()["reason"] == "time"
        assert 0 < found.json()["tokens"] < 90_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_requests_end_and_takes_no_more(decoder, number):
    with process(decoder, "--max-new-tokens", "50000") as (started, address):
        asked = {"prompt": "the cat", "max_tokens": 2000}
        with httpx.stream("POST", f"{address}/generate", json=asked, timeout=60) as running:
            chunks = running.iter_text()
            body = next(chunks)
            started.send_signal(number)

            def refused() -> bool:
                try:
                    httpx.get(f"{address}/health")
                except httpx.TransportError:
                    return True
                return False

            until(refused)
            body += "".join(chunks)
        assert body.endswith('event: end\ndata: {"tokens":2000,"reason":"length"}\n\n')
        code = started.wait(30)
        assert code in (0, 130, -signal.SIGTERM)
        assert "Traceback" not in started.stderr.read()


def test_a_stop_does_not_wait_for_ever(decoder):
    options = ("--max-new-tokens", "90000", "--stop-seconds", "1")
    with process(decoder, *options) as (started, address):
        asked = {"prompt": "the cat", "max_tokens": 90_000}
        with httpx.stream("POST", f"{address}/generate", json=asked, timeout=60) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            started.terminate()
            began = time.monotonic()
            started.wait(30)
            assert time.monotonic() - began < 10


def serve(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeprune", "serve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_mistakes_are_told_in_a_sentence(encoder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = serve(encoder, "--port", port)
        assert found.returncode == 2
        assert f"Port {port} of 127.0.0.1 cannot be listened on" in found.stderr
    found = serve(tmp_path)
    assert found.returncode == 2
    assert "holds no ONNX model" in found.stderr
    found = serve(encoder, "--max-batch", "0")
    assert found.returncode == 2
    assert "--max-batch" in found.stderr


def test_without_the_extra_it_says_what_to_install(encoder):
    from test_laws import on_a_device

    shown = on_a_device(f"""
sys.meta_path[0].find_spec = lambda name, path=None, target=None: exec(
    "raise ModuleNotFoundError('no ' + name, name=name)", {{"name": name}}
) if name.split(".")[0] in ("starlette", "uvicorn", "prometheus_client") else None
from click.testing import CliRunner
from edgeprune.cli import main
result = CliRunner().invoke(main, ["serve", {str(encoder)!r}])
print(result.exit_code, result.stderr)
""")
    assert shown.startswith("2 ")
    assert "pip install '.[service]'" in shown


def test_serving_needs_no_torch():
    from test_laws import modules, on_a_device

    names = modules("service")
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert on_a_device(code) == "all\n"


def test_the_command_line_offers_every_setting_with_its_default():
    from edgeprune.cli import serve
    from edgeprune.service.settings import ServiceSettings

    options = {option.name: option for option in serve.params if option.name != "bundle"}
    assert options.keys() == ServiceSettings.model_fields.keys()
    for name, field in ServiceSettings.model_fields.items():
        default = "all cores" if field.default is None else field.default
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert options[name].help.endswith(f"[default: {shown}]"), name
