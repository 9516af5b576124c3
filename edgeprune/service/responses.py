"""JSON answers and refusals, and events of a stream."""

from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from edgeprune.service.requests import OPENAI

_RETRY_SECONDS = 1


def json_response(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def refusal(status: int, sentence: str, path: str, code: str | None = None) -> Response:
    """`{"error": sentence}`, in OpenAI's form on its paths; with Retry-After for 429 and 503."""
    error: Any = sentence
    if path.startswith(OPENAI):
        error = openai_error(status, sentence, code)
    response = json_response({"error": error}, status)
    if status in (429, 503):
        response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def openai_error(status: int, sentence: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"message": sentence, "type": kind, "param": None, "code": code}


def event(content: Any, name: str | None = None) -> bytes:
    """One server-sent event, by the HTML standard."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + to_json(content) + b"\n\n"
