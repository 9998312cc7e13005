"""The server itself: HTTP/1.1 as clients really speak it, caps, and the life of the process."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.unit.sandbox.sandbox_process import ROOT, ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.sandbox.sandbox_process import Sandbox

BODY = b'{"model":"wan2.7-image","prompt":"http"}'
HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox-key\r\n"


@contextlib.contextmanager
def connected(sandbox: Sandbox) -> Iterator[socket.socket]:
    parts = urlsplit(sandbox.urls["provider"])
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20) as link:
        yield link


def until_close(link: socket.socket) -> bytes:
    return b"".join(iter(lambda: link.recv(65536), b""))


def exchange(sandbox: Sandbox, *parts: bytes) -> bytes:
    """Send the parts, then give all that comes until the server closes."""
    with connected(sandbox) as link:
        for part in parts:
            link.sendall(part)
        return until_close(link)


def test_pipelined_requests_are_answered_in_order(provider: Sandbox) -> None:
    """Three requests in one packet get three answers in their order, then the connection closes as asked."""
    raw = exchange(
        provider,
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    statuses = [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 404, 200]


def test_a_pipelined_request_behind_a_slow_one_waits(provider: Sandbox) -> None:
    """An answer that is delayed is still the first to come."""
    slow = BODY.replace(b"http", b"[[fault:slow:0.1]]")
    raw = exchange(
        provider,
        HEAD + b"Content-Length: %d\r\n\r\n" % len(slow) + slow,
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert raw.index(b"task_id") < raw.index(b'"ok"')


def test_nothing_behind_a_lost_answer_is_accepted(provider: Sandbox) -> None:
    """A request pipelined behind an answer that is lost is dropped with the connection, and not charged."""
    lost, behind = BODY.replace(b"http", b"[[fault:lost_answer]]"), BODY.replace(b"http", b"[[m:behind]]")
    parts = [HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in (lost, behind)]
    assert exchange(provider, b"".join(parts)) == b""
    assert provider.ledger(marker="behind")["groups"] == []


def test_a_chunked_body_is_read(provider: Sandbox) -> None:
    """A body in chunks, cut anywhere, is one request."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:]))
    head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    raw = exchange(provider, head, chunks[:5], chunks[5:], b"0\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")


def test_expect_100_continue_is_answered(provider: Sandbox) -> None:
    """A client that asks before sending its body is told to go on."""
    with connected(provider) as link:
        link.sendall(
            HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY)
        )
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(BODY)
        assert until_close(link).startswith(b"HTTP/1.1 200 ")


def test_head_has_no_body(provider: Sandbox) -> None:
    """HEAD is answered like GET, with its length and without its body."""
    raw = exchange(provider, b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: 11" in raw
    assert raw.endswith(b"\r\n\r\n")


def test_http_1_0_is_answered_and_closed(provider: Sandbox) -> None:
    """A client of HTTP/1.0 gets its answer and the end of the connection."""
    raw = exchange(provider, b"GET /health HTTP/1.0\r\n\r\n")
    assert b"connection: close" in raw
    assert raw.endswith(b'{"ok":true}')


def test_an_upgrade_is_ignored(provider: Sandbox) -> None:
    """A request that offers an upgrade is answered as if it had not."""
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
    with connected(provider) as link:
        link.sendall(head)
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2_000_000, b"431"),
        (b"GET /" + b"a" * 2_000_000, b"431"),
    ],
    ids=["no http", "no length", "huge header", "endless header", "endless url"],
)
def test_a_broken_request_ends_the_connection(provider: Sandbox, raw: bytes, status: bytes) -> None:
    """What cannot be read is refused, and the connection closed."""
    assert exchange(provider, raw).startswith(b"HTTP/1.1 " + status)


def test_a_body_beyond_the_cap_is_a_413(start: Callable[..., Sandbox]) -> None:
    """A body of more than --max-body-mib is read to its end, refused, and not kept."""
    sandbox = start("provider", "--max-body-mib", "1")
    assert sandbox.submit("cat", image_urls=["x" * 2_000_000]).status_code == 413
    assert sandbox.submit("cat").status_code == 200


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(start: Callable[..., Sandbox], signum: signal.Signals) -> None:
    """SIGTERM and SIGINT end it with exit code 0, open and hanging connections notwithstanding."""
    sandbox = start("all")
    assert set(sandbox.urls) == {"provider", "sink"}
    with connected(sandbox) as link:
        body = BODY.replace(b"http", b"[[fault:hang]]")
        link.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        sandbox.process.send_signal(signum)
        assert sandbox.process.wait(timeout=20) == 0


def test_a_taken_port_is_one_sentence(provider: Sandbox) -> None:
    """A port that somebody has gives one line on stderr and exit code 2."""
    port = provider.urls["provider"].rpartition(":")[2]
    refused = ended("provider", "--port", port)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("sandbox: ")
    assert len(refused.stderr.splitlines()) == 1


def test_it_loads_nothing_of_what_it_judges() -> None:
    """The whole program runs without one module of shared, producers or workers, or a client of theirs."""
    code = (
        "import json, sys, sandbox.__main__;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    assert "sandbox" in loaded
    assert not loaded & {"shared", "producers", "workers", "tests", "celery", "redis", "pydantic"}
