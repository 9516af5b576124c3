"""The bytes and milliseconds of a bundle in a browser: deploy/web, opened without a window.

    python benchmarks/web_page.py OUTPUT --modules FOLDER [--screenshot FILE] [--json FILE]

OUTPUT is a build's, with `bundle` and `original`; FOLDER holds the page's npm packages and
playwright-core. Chromium is Debian's, or what EDGEPRUNE_CHROMIUM names. A server of the page
counts every byte that it sends, headers too; what hosts of static pages compress (all but the
graphs), it sends by gzip.
"""

import argparse
import gzip
import json
import mimetypes
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "deploy" / "web"
SCRIPT = Path(__file__).with_suffix(".mjs")
_COMPRESSED = {".html", ".mjs", ".js", ".json", ".wasm"}
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


@dataclass
class Server:
    """A running server, and what it has sent."""

    url: str = ""
    bytes: Counter[str] = field(default_factory=Counter)
    """Sent by path: headers and body, as compressed."""


@contextmanager
def serving(folders: Mapping[str, Path]) -> Iterator[Server]:
    """Serve files below folders, by the first part of their path; "" is for the rest."""
    server, lock, packed = Server(), Lock(), {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(whole=True)

        def do_HEAD(self) -> None:
            self._answer(whole=False)

        def _answer(self, whole: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
            head, _, rest = path.partition("/")
            folder, name = (folders[head], rest) if head in folders else (folders[""], path)
            file = folder / name
            known = file.is_file() and file.resolve().is_relative_to(folder.resolve())
            body = self._body(file) if known else b"There is no such file."
            self.send_response(200 if known else 404)
            kind = _TYPES.get(file.suffix) or mimetypes.guess_type(name)[0]
            self.send_header("Content-Type", kind or "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            if known and file.suffix in _COMPRESSED:
                self.send_header("Content-Encoding", "gzip")
            headers = sum(map(len, self._headers_buffer))
            self.end_headers()
            with lock:
                server.bytes[path] += headers + 2 + (len(body) if whole else 0)
            if whole:
                self.wfile.write(body)

        def _body(self, file: Path) -> bytes:
            if file.suffix not in _COMPRESSED:
                return file.read_bytes()
            with lock:
                if file not in packed:
                    packed[file] = gzip.compress(file.read_bytes())
                return packed[file]

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/"
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def look(
    output: Path,
    modules: Path,
    presses: Sequence[Mapping[str, str]] = (),
    query: str = "",
    screenshot: Path | None = None,
) -> tuple[dict[str, Any], Counter[str]]:
    """Open the page of a build's output, press what is asked for; what it showed each time, and
    the bytes that were sent, by path.

    Args:
        modules: the folder node_modules.
        presses: {"text": what to type, "press": a button's id}.

    Raises:
        RuntimeError: the browser failed.
    """
    folders = {"": PAGE, "node_modules": modules}
    folders |= {name: output / name for name in ("bundle", "original")}
    with serving(folders) as server:
        words = ["node", str(SCRIPT), str(modules.parent), server.url + query]
        words += [str(screenshot)] if screenshot else []
        done = subprocess.run(
            words,
            input="\n".join(map(json.dumps, presses)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout), server.bytes


def parts(sent: Mapping[str, int]) -> dict[str, int]:
    """Bytes of what was sent: the page with its libraries, the graph, tokenizer and settings."""
    found: Counter[str] = Counter()
    for path, count in sent.items():
        head = path.partition("/")[0]
        kind = {"node_modules": "libraries", "bundle": "bundle", "original": "original"}
        graph = head == "bundle" and path.startswith("bundle/onnx/")
        found["graph" if graph else kind.get(head, "page")] += count
    return {**found, "all": sum(found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--modules", type=Path, required=True)
    parser.add_argument("--variant")
    parser.add_argument("--screenshot", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    query = f"?variant={given.variant}" if given.variant else ""
    modules = given.modules / "node_modules"
    _, sent = look(given.output, modules, query=query)
    compared = [{"press": "compare"}]
    seen, _ = look(given.output, modules, compared, query, given.screenshot)
    result = {"bytes": parts(sent), "shown": seen["steps"][-1], "browser": seen["browser"]}
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
