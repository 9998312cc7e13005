"""A receiver that keeps deliveries as they came: headers and exact bytes."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST; names of headers in lower case."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def signed(self) -> tuple[str, str, str]:
        """What the examples take as arguments."""
        return self.id, self.headers["webhook-timestamp"], self.headers["webhook-signature"]


@dataclass
class Hooks:
    """Acknowledges everything."""

    deliveries: list[Delivery] = field(default_factory=list)

    def __enter__(self) -> Self:
        hooks = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                names = {name.lower(): value for name, value in self.headers.items()}
                hooks.deliveries.append(Delivery(names, body))
                self.send_response(204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hooks"

    def by_type(self) -> dict[str, Delivery]:
        """Give the first delivery of each type of event."""
        found: dict[str, Delivery] = {}
        for delivery in list(self.deliveries):
            found.setdefault(delivery.event["type"], delivery)
        return found
