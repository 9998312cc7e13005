"""An S3 server that misbehaves as told: one bucket, no authentication, what no well-behaved server can be made to do."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from shared.settings import StorageSettings
from shared.settings_section import SecretReference

LAST_MODIFIED = "Mon, 02 Feb 2026 00:00:00 GMT"


@dataclass
class FakeS3:
    """`faults` gives by method a status and body to answer with; `cut_to` truncates what is kept.

    `{key}` in a body becomes the access key id of the request, as some servers quote it.
    """

    faults: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    cut_to: int | None = None
    lose_replies_of_puts: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def settings(self) -> StorageSettings:
        """It takes any credentials: these are read from TESTS_S3_CANARY."""
        canary = SecretReference(env="TESTS_S3_CANARY")
        return StorageSettings(
            url="s3://bucket/prefix",
            endpoint=f"http://127.0.0.1:{self._server.server_port}",
            access_key_id=canary,
            secret_access_key=canary,
            allow_http=True,
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeS3

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._failed():
            return
        if self.path in self.fake.objects and self.headers.get("If-None-Match") == "*":
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.fake.objects[self.path] = body[: self.fake.cut_to]
        if self.fake.lose_replies_of_puts:
            self.fake.lose_replies_of_puts -= 1
            self.close_connection = True
            return
        self._answer(200)

    def do_HEAD(self) -> None:
        self._give(with_body=False)

    def do_GET(self) -> None:
        self._give(with_body=True)

    def do_DELETE(self) -> None:
        if not self._failed():
            self.fake.objects.pop(self.path, None)
            self._answer(204)

    def _give(self, *, with_body: bool) -> None:
        if self._failed():
            return
        body = self.fake.objects.get(self.path)
        if body is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>" if with_body else b"")
            return
        self.send_response(200)
        self._headers(len(body))
        if with_body:
            self.wfile.write(body)

    def _failed(self) -> bool:
        self.fake.requests.append(self.command)
        fault = self.fake.faults.get(self.command)
        if fault is None:
            return False
        echoed = re.search(r"Credential=([^/]+)", self.headers.get("Authorization", ""))
        body = fault[1].replace(b"{key}", echoed[1].encode() if echoed else b"")
        self._answer(fault[0], b"" if self.command == "HEAD" else body)
        return True

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self._headers(len(body))
        self.wfile.write(body)

    def _headers(self, length: int) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", LAST_MODIFIED)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass
