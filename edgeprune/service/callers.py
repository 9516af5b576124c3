"""Refuse requests that a page in a browser makes behind its reader's back, those that a proxy may
have parsed differently, and those without the token where one is asked for."""

import hashlib
import hmac
import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from starlette.responses import Response
from starlette.types import Scope

from edgeprune.base.errors import UserError
from edgeprune.service.requests import PATHS
from edgeprune.service.responses import refusal
from edgeprune.service.settings import ServiceSettings

HEALTH = "/health"
"""The one path that needs no token, so that whoever watches over a service needs none."""
LEAST_TOKEN = 16
"""Characters; fewer could be tried out."""
_HOST = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::\d*)?")
_MAX_ECHO = 80


class Callers:
    """Refuses requests by their head, before reading their body.

    A page whose name points at this machine (DNS rebinding) calls the service by that name, so only
    known names are answered, and addresses, which cannot be redirected. A page may send a form or
    plain text to any address, but JSON only where CORS allows it, as this service does for the
    origins alone that it was told.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        machine = socket.gethostname()
        names = (settings.host, "localhost", machine, f"{machine}.local", *settings.allowed_host)
        self._names = {name.lower() for name in names}
        self._token = read_token(settings.token_file) if settings.token_file else None

    def refused(self, scope: Scope) -> Response | None:
        """The refusal of a request; None if it may be answered."""
        path = scope["path"]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if b"transfer-encoding" in headers and (
            b"content-length" in headers or scope["http_version"] == "1.0"
        ):
            # The end of the body is ambiguous, so the next request must not be read.
            sentence = "The body is chunked: it has no Content-Length, nor HTTP/1.0."
            response = refusal(400, sentence, path)
            response.headers["Connection"] = "close"
            return response
        host = headers.get(b"host", "")
        if not self._knows(host):
            return refusal(
                421,
                f"{host[:_MAX_ECHO]!r} is not a name of this service: call it by its address or by "
                "localhost, or start it with --allowed-host and this name.",
                path,
            )
        if self._token and path != HEALTH and not self._bears_token(headers):
            sentence = "Send the service's token: Authorization: Bearer TOKEN."
            response = refusal(401, sentence, path, "invalid_api_key")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if scope["method"] == "POST" and path in PATHS:
            media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                sentence = "The body must be JSON: send Content-Type: application/json."
                return refusal(415, sentence, path)
        return None

    def _bears_token(self, headers: Mapping[bytes, str]) -> bool:
        """Whether the token is the right one, in a time that tells nothing of it."""
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        given = hashlib.sha256(token.strip().encode()).digest()
        right = hmac.compare_digest(given, self._token or b"")
        return right and scheme.lower() == "bearer"

    def _knows(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        name = (match[1] or match[2] or "").removesuffix(".").lower() if match else ""
        return name in self._names or _is_address(name)


def read_token(file: Path) -> bytes:
    """The SHA-256 of the token in a file, whose length and first characters then show in no time.

    Raises:
        UserError: the file cannot be read, or holds none that a header can carry.
    """
    try:
        token = file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if len(token) < LEAST_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UserError(
            f"{file} holds no token: write one line of at least {LEAST_TOKEN} ASCII characters "
            "without blanks, such as `openssl rand -hex 32` prints."
        )
    return hashlib.sha256(token.encode()).digest()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
