"""Who may call: a token, origins of pages, so many requests of one client."""

import anyio
import pytest

pytest.importorskip("starlette", reason="the service's extra is not installed")

from onnx_models import encoder_folder
from starlette.testclient import TestClient

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.service.app import make_app
from edgeprune.service.callers import LEAST_TOKEN, Callers
from edgeprune.service.limits import LimitsMiddleware
from edgeprune.service.metrics import Metrics
from edgeprune.service.settings import ServiceSettings

TOKEN = "0123456789abcdef"
PAGE = "https://example.org"
ASKED = {"texts": ["the cat"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return runtime.load(encoder_folder(tmp_path_factory.mktemp("served") / "encoder"), threads=1)


def client_of(model, **settings) -> TestClient:
    app = make_app(model, ServiceSettings(**settings))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def guarded(model, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with client_of(model, token_file=tmp_path / "token", allowed_origin=(PAGE,)) as client:
        yield client


@pytest.mark.parametrize(
    "given",
    [
        None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", "Bearer \xe9",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/metrics", "/v1/models", "/other"])
def test_nothing_is_told_without_the_token(guarded, given, path):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    method = "POST" if path in ("/embed", "/v1/embeddings") else "GET"
    answer = guarded.request(method, path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer" in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens_and_health_needs_none(guarded, scheme):
    given = {"Authorization": f"{scheme} {TOKEN}"}
    assert guarded.post("/embed", json=ASKED, headers=given).is_success
    assert guarded.get("/metrics", headers=given).is_success
    assert guarded.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    "content", ["", "short", "é" * 20, f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}"]
)
def test_a_file_without_a_token_is_refused_at_the_start(model, tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"at least {LEAST_TOKEN} ASCII characters"):
        client_of(model, token_file=tmp_path / "token")
    with pytest.raises(FileNotFoundError):  # which the command line tells in a sentence
        client_of(model, token_file=tmp_path / "none")


def preflight(client, origin):
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    return client.options("/embed", headers=asked)


def test_a_page_of_a_listed_origin_may_call_and_no_other(guarded):
    allowed = preflight(guarded, PAGE)
    assert allowed.is_success  # a browser sends it without the token
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in allowed.headers
    for other in ("https://example.com", "http://example.org", f"{PAGE}.evil.org", "null"):
        refused = preflight(guarded, other)
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
    given = {"Authorization": f"Bearer {TOKEN}", "Origin": PAGE}
    answer = guarded.post("/embed", json=ASKED, headers=given)
    assert answer.headers["access-control-allow-origin"] == PAGE


def test_without_a_list_no_page_may_call(model):
    with client_of(model) as client:
        assert "access-control-allow-origin" not in preflight(client, PAGE).headers
        answer = client.post("/embed", json=ASKED, headers={"Origin": PAGE})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "https://*.example.org", "example.org", f"{PAGE}/path"])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValueError, match="allowed_origin"):
        ServiceSettings(allowed_origin=(origin,))


def test_one_client_takes_no_more_than_its_places():
    """Two requests of one client are running when it sends a third, and another its first."""
    settings = ServiceSettings(max_per_client=2)
    statuses: list[tuple[str, int]] = []

    async def play() -> None:
        begun, go_on = anyio.Semaphore(0), anyio.Event()

        async def app(scope, receive, send) -> None:
            begun.release()
            await go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        limits = LimitsMiddleware(app, settings, Metrics(), Callers(settings))

        async def ask(address: str) -> None:
            async def send(message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append((address, message["status"]))

            headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
            scope = {"type": "http", "path": "/embed", "method": "POST", "http_version": "1.1"}
            await limits({**scope, "headers": headers, "client": (address, 1)}, None, send)

        async with anyio.create_task_group() as tasks:
            for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
                tasks.start_soon(ask, address)
            for _ in range(3):
                await begun.acquire()
            await ask("10.0.0.1")
            assert statuses == [("10.0.0.1", 429)]
            go_on.set()
        await ask("10.0.0.1")  # its places are free again

    anyio.run(play)
    assert sorted(statuses[1:]) == [("10.0.0.1", 200)] * 3 + [("10.0.0.2", 200)]
