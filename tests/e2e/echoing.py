"""A provider that quotes what it was sent in every answer: what a gateway does on its worst day."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.process import HOST

# In the order of the submits; the last is that of all others. (status, whether the body is an error as JSON)
_ANSWERS = ((401, True), (500, True), (200, False), (400, True))


class Echoing:
    """Serves on a free port while it is entered; `url` is an account's base URL."""

    def __enter__(self) -> Self:
        self.posts = 0
        echoing = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
                at, echoing.posts = echoing.posts, echoing.posts + 1
                status, as_error = _ANSWERS[min(at, len(_ANSWERS) - 1)]
                quoted = f"refused {sent} with {self.headers['Authorization']}"
                body = json.dumps({"error": {"code": quoted, "message": quoted}}) if as_error else quoted
                self.send_response(status)
                self.send_header("Content-Length", str(len(body.encode())))
                self.send_header("X-Request-Id", sent[:200].replace("\n", " "))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://{HOST}:{self._server.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
