"""The way out to addresses that others name: webhook endpoints and result URLs. A guard against SSRF.

A URL is parsed once, by the HTTP client's own parser, so there is no second opinion to exploit. The name is resolved
for every request; *every* address it has must be allowed; and the connection goes to an address that was vetted, not
to what another look-up might say (DNS rebinding). Host header and TLS name stay those of the URL. Nothing follows
redirects here: whoever does sends each hop through again.

The client library takes no address beside the URL, so each (host, address) in use has a client of its own whose
name resolution is pinned. Building one costs about 10 ms of CPU, so they are kept, and an address that has one is
preferred while it is still among the vetted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from pyreqwest.http import Url

from workers.delivery.addresses import refusal
from workers.http.port import FailureCause, HttpFailure, Sent, no_time_left
from workers.http.pyreqwest_client import Pin, PyreqwestClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from concurrent.futures import Future

    from workers.http.port import HttpRequest, HttpResponse

    Outcome = HttpResponse | HttpFailure
    Act = Callable[[PyreqwestClient, HttpRequest], Awaitable[Outcome]]
    Resolver = Callable[[str], Awaitable[Sequence[str]]]

CONNECT_TIMEOUT_S = 5.0  # leaves time for another address within one delivery
_MAX_URL_CHARS = 8192  # presigned URLs with session tokens reach 2,000
_MAX_HOST_CHARS = 253
_REMEMBERED_HOSTS = 1024
_TRIES = 3  # addresses of one host per request
_WEB_PORTS = frozenset({80, 443})
_AUTHORITY = re.compile(r"https?://([^/?#]+)", re.IGNORECASE)
_PARSERS_DISAGREE = re.compile(r"[\x00-\x20\x7f\\]")
_UNREACHABLE = frozenset({FailureCause.CONNECT_FAILED, FailureCause.CONNECT_TIMEOUT})


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Where requests may go.

    `allow_private` is for development: loopback and private networks, on any port; metadata addresses stay refused.
    `allowed_ports` None means 80 and 443 (any with `allow_private`). `allowed_hosts` (exact, or a suffix with a
    leading dot) restricts names if it is not empty.
    """

    allow_private: bool = False
    allow_http: bool = False
    allowed_ports: frozenset[int] | None = None
    allowed_hosts: tuple[str, ...] = ()

    def allows_port(self, port: int) -> bool:
        if self.allowed_ports is not None:
            return port in self.allowed_ports
        return port in _WEB_PORTS or (self.allow_private and port > 0)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. `host` is spelled as the client's parser does: lower case, punycode, no brackets."""

    host: str
    is_address: bool


def target_of(url: str, policy: EgressPolicy, hosts: tuple[str, ...] = ()) -> Target | HttpFailure:
    """Judge a URL by itself, before any name is resolved; `hosts` is a second allowlist, for this request."""
    parsed = _parsed(url)
    if parsed is None:
        return _forbidden("the URL is no plain http(s) URL with a host and nothing else in its authority")
    host = (parsed.host_str or "").strip("[]")
    if reason := _url_refusal(parsed, host, policy, hosts):
        return _forbidden(reason)
    if not _is_address(host):
        return Target(host, is_address=False)
    if reason := refusal(host, allow_private=policy.allow_private):
        return _forbidden(f"{host} is {reason}")
    return Target(host, is_address=True)


def _parsed(url: str) -> Url | None:
    """Parse as the client does. What other parsers would read differently (user info, escapes) is refused."""
    authority = _AUTHORITY.match(url)
    if authority is None or len(url) > _MAX_URL_CHARS or _PARSERS_DISAGREE.search(url):
        return None
    if "@" in authority[1] or "%" in authority[1]:
        return None
    try:
        return Url(url)
    except ValueError:
        return None


def _url_refusal(parsed: Url, host: str, policy: EgressPolicy, hosts: tuple[str, ...]) -> str | None:
    port = parsed.port_or_known_default or 0
    if not 0 < len(host) <= _MAX_HOST_CHARS:
        return "the URL's host is empty or too long"
    if parsed.scheme != "https" and not policy.allow_http:
        return "http is not allowed: use https"
    if not policy.allows_port(port):
        return f"port {port} is not allowed"
    if not all(host_matches(host, allowed) for allowed in (policy.allowed_hosts, hosts) if allowed):
        return f"host {host} is not on the allowlist"
    return None


@lru_cache(maxsize=_REMEMBERED_HOSTS)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_matches(host: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a host is one of these: exact names, or suffixes with a leading dot."""
    name = host.removesuffix(".")
    return any(
        name.endswith(pattern) if pattern.startswith(".") else name == pattern
        for pattern in (pattern.lower() for pattern in patterns)
    )


class Egress:
    """Sends requests to vetted addresses only. One per process and policy; build it outside the event loop."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_clients: int = 256,
        ca_pem: bytes | None = None,
    ) -> None:
        self._policy = policy
        self._own_resolver = SystemResolver() if resolver is None else None
        self._resolver = resolver or self._own_resolver
        self._direct = PyreqwestClient(connect_timeout_s=connect_timeout_s, ca_pem=ca_pem)
        self._pinned = _PinnedClients(connect_timeout_s, ca_pem, max_clients)

    async def send(self, request: HttpRequest, hosts: tuple[str, ...] = ()) -> HttpResponse | HttpFailure:
        """Send; a refused destination is `FORBIDDEN_ADDRESS` and `NOT_SENT`. `hosts`: see `target_of`."""
        return await self._exchange(request, hosts, PyreqwestClient.send)

    async def stream(
        self, request: HttpRequest, write: Callable[[bytes], object], hosts: tuple[str, ...] = ()
    ) -> HttpResponse | HttpFailure:
        """Send, and hand the body of a 200 to `write` piece by piece; no other body is read."""
        return await self._exchange(request, hosts, lambda client, sent: client.stream(sent, write))

    async def aclose(self) -> None:
        await self._pinned.aclose()
        await self._direct.aclose()
        if self._own_resolver is not None:
            self._own_resolver.close()

    async def _exchange(self, request: HttpRequest, hosts: tuple[str, ...], act: Act) -> Outcome:
        deadline_at = asyncio.get_running_loop().time() + request.deadline_s
        target = target_of(request.url, self._policy, hosts)
        if isinstance(target, HttpFailure):
            return target
        if target.is_address:
            return await act(self._direct, request)
        addresses = await self._vetted_addresses(target.host, deadline_at)
        if isinstance(addresses, HttpFailure):
            return addresses
        return await self._first_reachable(target.host, addresses, act, request, deadline_at)

    async def _vetted_addresses(self, host: str, deadline_at: float) -> Sequence[str] | HttpFailure:
        assert self._resolver is not None
        try:
            async with asyncio.timeout_at(deadline_at):
                addresses = await self._resolver(host)
        except TimeoutError:
            return _unresolved(f"{host} did not resolve in time")
        except (OSError, UnicodeError):
            return _unresolved(f"{host} does not resolve")
        for address in addresses:
            if reason := refusal(address, allow_private=self._policy.allow_private):
                return _forbidden(
                    f"{host} resolves to {reason}"
                )  # which one would map a network for a tenant
        return addresses or _unresolved(f"{host} has no address")

    async def _first_reachable(
        self, host: str, addresses: Sequence[str], act: Act, request: HttpRequest, deadline_at: float
    ) -> Outcome:
        outcome: Outcome = no_time_left()
        for address in self._pinned.sorted_by_use(host, addresses)[:_TRIES]:
            left_s = deadline_at - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            async with self._pinned.borrowed(host, address) as client:
                outcome = await act(client, replace(request, deadline_s=left_s))
            if not _is_unreachable(outcome):
                break
            await self._pinned.forget(host, address)
        return outcome


def _is_unreachable(outcome: Outcome) -> bool:
    return (
        isinstance(outcome, HttpFailure) and outcome.sent is Sent.NOT_SENT and outcome.cause in _UNREACHABLE
    )


def _forbidden(detail: str) -> HttpFailure:
    return HttpFailure(Sent.NOT_SENT, FailureCause.FORBIDDEN_ADDRESS, detail)


def _unresolved(detail: str) -> HttpFailure:
    return HttpFailure(Sent.NOT_SENT, FailureCause.DNS_FAILED, detail)


@dataclass(slots=True, eq=False)
class _LookUp:
    """One name: what a thread does, what those who wait see of it, and how many they are."""

    work: Future[list[str]]
    answer: asyncio.Future[list[str]]
    waiting: int = 0


class SystemResolver:
    """The system's name resolution, in threads of its own.

    A name server that hangs for some names must not take the few threads that everything else shares. Requests for
    a name that is just being looked up share the answer; none is kept. What has not begun when the last of those who
    wait gives up is dropped: else the names of later requests would wait behind those that nobody wants any more.
    """

    def __init__(self, threads: int = 16) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._running: dict[str, _LookUp] = {}

    async def __call__(self, host: str) -> list[str]:
        """Give all addresses, the system's preference first. Raises OSError (gaierror) if there are none."""
        lookup = self._running.get(host) or self._begin(host)
        lookup.waiting += 1
        try:
            return await asyncio.shield(lookup.answer)
        finally:
            lookup.waiting -= 1
            if (
                not lookup.waiting and lookup.work.cancel()
            ):  # False if a thread is at it: then it is still shared
                self._running.pop(host, None)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, host: str) -> _LookUp:
        work = self._threads.submit(_look_up, host)
        lookup = self._running[host] = _LookUp(work, asyncio.wrap_future(work))
        lookup.answer.add_done_callback(lambda answer: self._ended(host, lookup, answer))
        return lookup

    def _ended(self, host: str, lookup: _LookUp, answer: asyncio.Future[list[str]]) -> None:
        if self._running.get(host) is lookup:
            del self._running[host]
        if not answer.cancelled():
            answer.exception()  # seen, even if all who asked have given up


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@dataclass(slots=True)
class _Entry:
    building: asyncio.Future[PyreqwestClient]
    users: int = 0
    dropped: bool = False


class _PinnedClients:
    """Clients by (host, address), the least recently used dropped first, none closed while in use."""

    def __init__(self, connect_timeout_s: float, ca_pem: bytes | None, limit: int) -> None:
        self._connect_timeout_s, self._ca_pem, self._limit = connect_timeout_s, ca_pem, limit
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def sorted_by_use(self, host: str, addresses: Sequence[str]) -> list[str]:
        return sorted(addresses, key=lambda address: (host, address) not in self._entries)

    @asynccontextmanager
    async def borrowed(self, host: str, address: str) -> AsyncIterator[PyreqwestClient]:
        key = (host, address)
        entry = self._entries.get(key) or self._begin(key)
        self._entries.move_to_end(key)
        entry.users += 1
        try:
            while len(self._entries) > self._limit:
                await _drop(self._entries.popitem(last=False)[1])
            yield await asyncio.shield(entry.building)
        finally:
            entry.users -= 1
            await _close_if_done(entry)

    async def forget(self, host: str, address: str) -> None:
        if entry := self._entries.pop((host, address), None):
            await _drop(entry)

    async def aclose(self) -> None:
        while self._entries:
            await _drop(self._entries.popitem()[1])

    def _begin(self, key: tuple[str, str]) -> _Entry:
        """Build in a thread, since it would hold up the loop; those who ask meanwhile share it."""
        build = partial(
            PyreqwestClient,
            connect_timeout_s=self._connect_timeout_s,
            pin=Pin(*key),
            ca_pem=self._ca_pem,
        )
        entry = self._entries[key] = _Entry(asyncio.ensure_future(asyncio.to_thread(build)))
        entry.building.add_done_callback(lambda built: self._forget_if_failed(key, built))
        return entry

    def _forget_if_failed(self, key: tuple[str, str], built: asyncio.Future[PyreqwestClient]) -> None:
        if built.cancelled() or built.exception() is not None:
            self._entries.pop(key, None)  # the next request tries again


async def _drop(entry: _Entry) -> None:
    entry.dropped = True
    await _close_if_done(entry)


async def _close_if_done(entry: _Entry) -> None:
    if entry.dropped and entry.users == 0:
        await asyncio.wait({entry.building})
        if not entry.building.cancelled() and entry.building.exception() is None:
            await entry.building.result().aclose()
