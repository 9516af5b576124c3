"""The real process over loopback: many clients, leavers, slow ones, and its end."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("uvicorn", reason="the service's extra is not installed")

import httpx2
import onnx
from hostile_templates import growing, nested
from onnx import TensorProto, helper, numpy_helper
from onnx_models import WORDS, decoder_folder, encoder_folder, ids_of
from processes import until, wait_for_end
from services import process

from edgeprune import runtime

# Wide enough that one text takes some milliseconds, so that others meet in line.
DEPTH, WIDTH = 6, 768
HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("served") / "e", depth=DEPTH, width=WIDTH)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "d"
    return decoder_folder(folder, max_position_embeddings=100_000)


def metric(address: str, name: str) -> float:
    text = httpx2.get(f"{address}/metrics").text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(1 + number % 9))


def test_many_at_once_get_their_own_answers_and_run_together(encoder):
    texts = [[sentence(3 * i + j) for j in range(1 + i % 3)] for i in range(40)]

    async def ask(address: str) -> list[httpx2.Response]:
        async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
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
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=30) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            refused = httpx2.post(f"{address}/generate", json=asked)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert httpx2.get(f"{address}/health").status_code == 200
        # The stream's client has left: its place is free, and no more words are made for it.
        until(lambda: metric(address, "edgeprune_requests_running") == 0)
        short = {"prompt": "the cat", "max_tokens": 3, "stream": False}
        assert httpx2.post(f"{address}/generate", json=short).json()["tokens"] == 3


def test_a_client_that_leaves_while_waiting_takes_its_request_along(decoder):
    with process(decoder, "--max-new-tokens", "50000") as (_, address):
        asked = {"prompt": "the cat", "max_tokens": 50_000}
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=30) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(f"{address}/generate", json=asked, timeout=0.3)
            until(lambda: metric(address, "edgeprune_requests_running") == 1)
            assert metric(address, "edgeprune_texts_waiting") == 0
            left = 'edgeprune_requests_total{path="/generate",status="499"}'
            assert metric(address, left) == 1


def test_a_slow_body_and_a_late_answer_are_ended(decoder):
    options = ("--body-seconds", "0.3", "--answer-seconds", "0.3", "--max-new-tokens", "50000")
    with process(decoder, *options) as (_, address):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(HEAD % b"/generate" + b"Content-Length: 99\r\n\r\n{")
            assert b" 408 " in slow.recv(1000)
        asked = {"prompt": "the cat", "max_tokens": 50_000}
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=30) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            late = httpx2.post(f"{address}/generate", json=asked, timeout=30)
            assert late.status_code == 503
            assert "within 0.3 s" in late.json()["error"]


def test_a_text_without_end_is_ended_in_time(decoder):
    options = ("--generate-seconds", "0.5", "--max-new-tokens", "90000")
    with process(decoder, *options) as (_, address):
        asked = {"prompt": "the cat", "max_tokens": 90_000, "stream": False}
        found = httpx2.post(f"{address}/generate", json=asked, timeout=30)
        assert found.json()["reason"] == "time"
        assert 0 < found.json()["tokens"] < 90_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_requests_end_and_takes_no_more(decoder, number):
    with process(decoder, "--max-new-tokens", "50000") as (started, address):
        asked = {"prompt": "the cat", "max_tokens": 2000}
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=60) as running:
            chunks = running.iter_text()
            body = next(chunks)
            started.send_signal(number)

            def refused() -> bool:
                try:
                    httpx2.get(f"{address}/health")
                except httpx2.TransportError:
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
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=60) as running:
            words = running.iter_bytes()  # the connection closes with it
            next(words)
            started.terminate()
            began = time.monotonic()
            started.wait(30)
            assert time.monotonic() - began < 10


ENDLESS = {
    "grows": growing("'x'", "s.x ~ s.x"),
    "turns": nested(3, 99_999),
    "counts": "{{ (messages | length + 8) ** (9 ** 9) }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_chat_template_without_end_is_an_error_and_others_are_answered(kind, decoder, tmp_path):
    folder = shutil.copytree(decoder, tmp_path / "d")
    template = "{% if messages[0].role == 'x' %}" + ENDLESS[kind] + "{% endif %}the cat"
    (folder / "chat_template.jinja").write_text(template)

    def chat(role: str) -> httpx2.Response:
        asked = {"messages": [{"role": role, "content": "hi"}], "max_tokens": 1, "stream": False}
        return httpx2.post(f"{address}/generate", json=asked, timeout=120)

    with process(folder) as (started, address):
        assert chat("user").json()["tokens"] == 1
        with ThreadPoolExecutor(3) as clients:
            answers = list(clients.map(chat, ("x", "user", "x")))
        assert [answer.status_code for answer in answers] == [400, 200, 400]
        assert "its chat template was ended" in answers[0].json()["error"]
        assert httpx2.get(f"{address}/health").status_code == 200
        assert chat("user").json()["tokens"] == 1
        [worker] = psutil.Process(started.pid).children()
        started.terminate()
        assert started.wait(60) in (0, -signal.SIGTERM)
        wait_for_end(worker)


# Connections, and what they send ------------------------------------------------------------------


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes it."""
    found = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(10_000):
            found += more
    return found


@pytest.mark.parametrize("sent", [b"", HEAD % b"/embed", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_health_answers_however_many_heads_hang(encoder, sent):
    limits = ("--max-connections", "20", "--max-concurrent", "10", "--head-seconds", "3600")
    with process(encoder, *limits) as (_, address), ExitStack() as stack:
        hanging = []
        for _ in range(60):
            hanging.append(stack.enter_context(connect(address)))
            hanging[-1].sendall(sent)
        # The newest are still there, the oldest gave their places.
        for _ in range(3):
            assert httpx2.get(f"{address}/health", timeout=30).status_code == 200
        assert all(rest(connection) == b"" for connection in hanging[:40])
        asked = {"texts": ["the cat"]}
        assert httpx2.post(f"{address}/embed", json=asked, timeout=30).status_code == 200


def test_a_request_that_runs_keeps_its_place_among_heads_that_hang(decoder):
    limits = ("--max-connections", "4", "--max-concurrent", "2", "--max-new-tokens", "50000")
    with process(decoder, *limits) as (_, address), ExitStack() as stack:
        asked = {"prompt": "the cat", "max_tokens": 1000}
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=60) as running:
            words = running.iter_text()
            body = next(words)
            for _ in range(20):
                stack.enter_context(connect(address)).sendall(HEAD % b"/generate")
            body += "".join(words)
        assert body.endswith('event: end\ndata: {"tokens":1000,"reason":"length"}\n\n')


@pytest.mark.parametrize("sent", [b"", HEAD % b"/embed", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_end_is_closed(encoder, sent):
    with process(encoder, "--head-seconds", "0.2") as (_, address):
        with connect(address) as hanging:
            hanging.sendall(sent)
            assert rest(hanging) == b""
        with connect(address) as later:  # after a whole request, too
            later.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert later.recv(1) == b"H"
            later.sendall(sent)
            answer = rest(later)
            assert answer.startswith(b"TTP/1.1 200 ")
            assert b"HTTP/1.1" not in answer


@pytest.mark.parametrize(
    "head",
    [
        HEAD % b"/embed" + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        HEAD % b"/embed" + b"transfer-encoding: Chunked\r\ncontent-length: 0\r\n",
        HEAD.replace(b"1.1", b"1.0") % b"/embed" + b"Transfer-Encoding: chunked\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n",
    ],
)
def test_a_body_of_two_lengths_is_refused_and_nothing_after_it_is_read(encoder, head):
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with process(encoder) as (_, address), connect(address) as connection:
        connection.sendall(head + b"\r\n0\r\n\r\n" + smuggled)
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


def test_what_clients_send_wrongly_is_logged_once_and_counted(encoder):
    with process(encoder) as (started, address):
        for _ in range(200):
            with connect(address) as connection:
                connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
                assert b" 400 " in connection.recv(10_000)
        started.terminate()
        said = started.stderr.read().splitlines()
    assert len(said) == 2
    assert "Invalid HTTP request" in said[0]
    assert "(199 more times)" in said[1]


def test_a_model_that_fails_is_logged_once_and_counted(tmp_path):
    folder = encoder_folder(tmp_path / "e")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["cat"] = 99  # beyond the graph's table
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with process(folder) as (started, address):
        for _ in range(50):
            found = httpx2.post(f"{address}/embed", json={"texts": ["cat"]})
            assert found.status_code == 500
            assert "graph fails when it is run" in found.json()["error"]
        started.terminate()
        said = started.stderr.read()
    assert "Traceback" not in said
    assert said.count("graph fails when it is run") == 2  # the first, and the sum
    assert "(49 more times)" in said


# Its end ------------------------------------------------------------------------------------------


def test_at_a_stop_the_line_is_given_back_and_the_running_text_told_its_end(decoder):
    options = ("--max-new-tokens", "90000", "--stop-seconds", "2", "--answer-seconds", "60")
    with process(decoder, *options) as (started, address), ThreadPoolExecutor(2) as pool:
        asked = {"prompt": "the cat", "max_tokens": 90_000}
        with httpx2.stream("POST", f"{address}/generate", json=asked, timeout=60) as running:
            words = running.iter_text()
            body = next(words)

            def ask(stream: bool) -> httpx2.Response:
                queued = {"prompt": "a dog", "max_tokens": 3, "stream": stream}
                return httpx2.post(f"{address}/generate", json=queued, timeout=60)

            waiting = [pool.submit(ask, stream) for stream in (True, False)]
            until(lambda: metric(address, "edgeprune_texts_waiting") == 2)
            started.terminate()
            for queued in waiting:
                found = queued.result()
                assert (found.status_code, found.headers["retry-after"]) == (503, "1")
                assert "stopping" in found.json()["error"]
            body += "".join(words)
        name, data = body.removesuffix("\n\n").split("\n\n")[-1].split("\n")
        assert name == "event: end"
        assert json.loads(data.removeprefix("data: "))["reason"] == "shutdown"
        assert started.wait(30) in (0, -signal.SIGTERM)
        assert started.stderr.read() == ""


def stuck_decoder(folder: Path) -> Path:
    """A decoder whose call does not return where the prompt holds "cat"."""
    decoder_folder(folder)
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    [last] = [node for node in graph.node if "logits" in node.output]
    last.output[0] = "once"

    def value(name: str, kind: int, shape: list[int] | None = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("go", "carried")],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("carried", TensorProto.FLOAT)],
        [value("go_out", TensorProto.BOOL, []), value("carried_out", TensorProto.FLOAT)],
    )  # fmt: skip
    weights = {"cat": np.array(ids_of("cat")[1]), "many": np.array(10**12), "yes": np.array(True)}
    graph.initializer.extend(numpy_helper.from_array(each, name) for name, each in weights.items())
    graph.node.extend(
        [
            helper.make_node("Equal", ["input_ids", "cat"], ["is_cat"]),
            helper.make_node("Cast", ["is_cat"], ["cats"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["cats"], ["any_cat"], keepdims=0),
            helper.make_node("Mul", ["any_cat", "many"], ["turns"]),
            helper.make_node("Loop", ["turns", "yes", "once"], ["logits"], body=body),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    return folder


def test_a_call_that_does_not_return_is_no_reason_to_stay(tmp_path):
    with process(stuck_decoder(tmp_path / "d"), "--stop-seconds", "1") as (started, address):
        short = {"prompt": "the dog", "max_tokens": 1, "stream": False}
        assert httpx2.post(f"{address}/generate", json=short).json()["tokens"] == 1
        with ThreadPoolExecutor(1) as pool:
            asked = {"prompt": "the cat", "stream": False}
            hanging = pool.submit(httpx2.post, f"{address}/generate", json=asked, timeout=60)
            until(lambda: metric(address, "edgeprune_requests_running") == 1)
            until(lambda: metric(address, "edgeprune_texts_waiting") == 0)
            started.terminate()
            assert hanging.result().json() == {"text": "", "tokens": 0, "reason": "shutdown"}
        assert started.wait(30) == 128 + signal.SIGTERM


def test_heads_that_hang_do_not_delay_a_stop(encoder):
    with process(encoder, "--stop-seconds", "3600") as (started, address), ExitStack() as stack:
        for sent in (b"", HEAD % b"/embed"):
            stack.enter_context(connect(address)).sendall(sent)
        assert httpx2.get(f"{address}/health").status_code == 200
        started.terminate()
        assert started.wait(30) in (0, -signal.SIGTERM)


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
    from on_device import on_a_device

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
    from on_device import modules, on_a_device

    names = modules("service")
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert on_a_device(code) == "all\n"


def test_the_command_line_offers_every_setting_with_its_default():
    from edgeprune.cli import serve
    from edgeprune.service.settings import ServiceSettings

    places = ("bundle", "variant")  # what is served; the settings say how
    options = {option.name: option for option in serve.params if option.name not in places}
    assert options.keys() == ServiceSettings.model_fields.keys()
    unset = {
        "allowed_host": "its own",
        "allowed_origin": "none",
        "token_file": "none",
        "served_name": "its folder's",
        "threads": "all cores",
        "max_per_client": "no limit",
    }
    for name, field in ServiceSettings.model_fields.items():
        default = unset[name] if field.default in (None, (), "") else field.default
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert options[name].help.endswith(f"[default: {shown}]"), name
