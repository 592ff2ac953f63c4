"""What stands between a watcher and the real Orthanc: a proxy that answers 500, loses answers, is slow, or acts."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable
from typing import Any

import requests

Meddle = Callable[[str, str], str | float | None]
"""Method, path -> "refuse" (500, the server is not asked), "lose" (500 after it was), "404", "hang up", seconds."""


class MeddlingProxy(http.server.ThreadingHTTPServer):
    """A proxy on loopback; what `meddle` says becomes of each request."""

    daemon_threads = True

    def __init__(self, target: str, meddle: Meddle) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.meddle, self.local = target, meddle, threading.local()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> MeddlingProxy:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that were killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: MeddlingProxy
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write for head and body: with two, each waits for a delayed acknowledgement

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = self.server.meddle(self.command, self.path)
        if isinstance(what, float):
            time.sleep(what)
        if what == "hang up":
            self.close_connection = True
            return None
        if what == "refuse":
            return self._answer(500, {}, b"")
        if what == "404":
            return self._answer(404, {"Content-Type": "text/html"}, b"<h1>Not Found</h1>")
        session = self.server.local.__dict__.setdefault("session", requests.Session())
        kept = {key: value for key, value in self.headers.items() if key in ("If-Match", "Authorization")}
        try:
            found = session.request(self.command, self.server.target + self.path, data=body, headers=kept, timeout=60)
        except requests.ConnectionError:
            return self._answer(502, {}, b"")
        if what == "lose":
            return self._answer(500, {}, b"")
        shown = {key: value for key, value in found.headers.items() if key in ("Content-Type", "ETag")}
        return self._answer(found.status_code, shown, found.content)

    do_GET = do_PUT = do_POST = do_DELETE = _forward

    def _answer(self, code: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
