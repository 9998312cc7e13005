"""A whole receiver: verify, remember the id, answer, and only then work.

WEBHOOK_SECRET=whsec_... python receiver.py PORT   (verify.py beside it; events are kept in events.sqlite3)
"""

from __future__ import annotations

import os
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from verify import Refused, verify

SECRET = os.environ["WEBHOOK_SECRET"]
BODY_BYTES_MAX = 1_000_000
NEW = "insert or ignore into events (id, type, body) values (?, ?, ?)"


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 as soon as an event is safe; whatever takes longer is done by whoever reads the table."""

    events: sqlite3.Connection
    timeout = 10

    def do_POST(self) -> None:
        """Take one event. Any 2xx says that it need not come again; anything else, that it should."""
        size = int(self.headers.get("content-length") or 0)
        if size > BODY_BYTES_MAX:
            self.send_error(413)
            return
        body = self.rfile.read(size)
        try:
            event = verify(SECRET, self.headers, body)  # these find names in any case
        except Refused as refused:
            self.send_error(400, str(refused))
            return
        with self.events:  # the id is the primary key: a duplicate is acknowledged, and nothing else
            new = self.events.execute(NEW, (self.headers["webhook-id"], event["type"], body)).rowcount
        self.send_response(204)
        self.send_header("content-length", "0")
        self.end_headers()
        self.log_message("%s %s", event["type"], "taken" if new else "seen before")


if __name__ == "__main__":
    Receiver.events = sqlite3.connect("events.sqlite3")
    Receiver.events.execute("create table if not exists events (id text primary key, type text, body blob)")
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
