"""Which requests are answered at all: none that a page in a browser makes behind its reader's back,
and none that a proxy in between may have read in another way."""

import re
import socket
from ipaddress import ip_address

from starlette.responses import Response
from starlette.types import Scope

from edgeprune.service.requests import PATHS
from edgeprune.service.responses import refusal
from edgeprune.service.settings import ServiceSettings

_HOST = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::\d*)?")
_MAX_ECHO = 80


class Callers:
    """Turns requests away by their head, before anything is read of their body.

    A page that had its own name point at this machine (DNS rebinding) calls the service by that
    name, so only known names are answered, and addresses, which cannot be made to point elsewhere.
    A page may send a form or plain text to any address unasked, but JSON only where it is allowed
    to (CORS), as it never is here.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        machine = socket.gethostname()
        names = (settings.host, "localhost", machine, f"{machine}.local", *settings.allowed_host)
        self._names = {name.lower() for name in names}

    def refused(self, scope: Scope) -> Response | None:
        """The answer to a request that is turned away; None for all others."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if b"transfer-encoding" in headers and (
            b"content-length" in headers or scope["http_version"] == "1.0"
        ):
            # Where the body ends is open, so that the next request must not be read.
            response = refusal(400, "The body is chunked: it has no Content-Length, nor HTTP/1.0.")
            response.headers["Connection"] = "close"
            return response
        host = headers.get(b"host", "")
        if not self._knows(host):
            return refusal(
                421,
                f"{host[:_MAX_ECHO]!r} is no name of this service: call it by its address or by "
                "localhost, or start it with --allowed-host and this name.",
            )
        if scope["method"] == "POST" and scope["path"] in PATHS:
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return refusal(415, "The body is to be JSON: send Content-Type: application/json.")
        return None

    def _knows(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = (found[1] or found[2] or "").removesuffix(".").lower() if found else ""
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
