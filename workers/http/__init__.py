"""HTTP behind one small port, so that a failed exchange always says whether a byte was sent.

port              HttpRequest -> HttpResponse | HttpFailure; the rules that every implementation keeps
pyreqwest_client  the fast one: polls, webhooks, downloads; submits by default
httpx_client      httpx's own transport, or any other: users', tests'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from workers.http.httpx_client import HttpxClient
from workers.http.port import FailureCause, HttpClient, HttpFailure, HttpRequest, HttpResponse, Sent
from workers.http.pyreqwest_client import PyreqwestClient

if TYPE_CHECKING:
    SubmitHttp = Literal["pyreqwest", "httpx"]

__all__ = [
    "FailureCause",
    "HttpClient",
    "HttpFailure",
    "HttpRequest",
    "HttpResponse",
    "HttpxClient",
    "PyreqwestClient",
    "Sent",
    "make_client",
    "make_submit_client",
]


def make_submit_client(kind: SubmitHttp) -> HttpClient:
    """Give a client for billed POSTs: a fresh connection for each, so that no stale one makes a failure ambiguous."""
    match kind:
        case "pyreqwest":
            return PyreqwestClient(fresh=True)
        case "httpx":
            return HttpxClient(fresh=True)
        case _:
            assert_never(kind)


def make_client() -> HttpClient:
    """Give a client for what may be repeated: polls. Webhooks and downloads go through `workers.delivery.egress`."""
    return PyreqwestClient()
