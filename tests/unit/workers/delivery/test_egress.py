"""The egress guard: where requests go, where they do not, and that what was vetted is what is connected to."""

from __future__ import annotations

import asyncio
import shlex
import ssl
import subprocess
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.unit.workers.delivery.loopback_server import answer, ok, serving, serving_on_one_port
from workers.delivery import egress as egress_module
from workers.delivery.egress import Egress, EgressPolicy, SystemResolver
from workers.http import FailureCause, HttpFailure, HttpRequest, HttpResponse, Sent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OPEN = EgressPolicy(allow_private=True, allow_http=True)
STRICT = EgressPolicy(allow_http=True)  # http, so that no vector is refused for its scheme alone


class Answers:
    """A name server that gives each look-up the next of these answers, and the last one for ever."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, _host: str) -> tuple[str, ...]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def egress(
    policy: EgressPolicy = OPEN,
    *answers: tuple[str, ...],
    ca_pem: bytes | None = None,
    max_clients: int = 256,
) -> AsyncIterator[Egress]:
    """Give an egress whose names resolve to these answers (to the system's if there are none)."""
    resolver = Answers(*answers) if answers else None
    made = Egress(policy, resolver=resolver, connect_timeout_s=2, ca_pem=ca_pem, max_clients=max_clients)
    try:
        yield made
    finally:
        await made.aclose()


def get(url: str, deadline_s: float = 5) -> HttpRequest:
    return HttpRequest("GET", url, deadline_s=deadline_s)


def assert_refused(outcome: object) -> None:
    assert isinstance(outcome, HttpFailure)
    assert (outcome.sent, outcome.cause) == (Sent.NOT_SENT, FailureCause.FORBIDDEN_ADDRESS)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("8.8.8.8", "10.0.0.1"),
        ("2606:4700::1", "::1"),
        ("169.254.169.254",),
        ("fe80::1%eth0",),
    ],
)
def test_one_bad_answer_refuses_the_name(addresses: tuple[str, ...]) -> None:
    """A mixed answer is an attack or a mistake; choosing its good half would make it a lottery."""

    async def run() -> None:
        async with egress(STRICT, addresses) as guard:
            outcome = await guard.send(get("http://metadata.google.internal/"))
        assert_refused(outcome)
        assert isinstance(outcome, HttpFailure)
        assert not any(address in outcome.detail for address in addresses)

    asyncio.run(run())


def test_loopback_is_refused_without_a_packet() -> None:
    """A listener on the very address sees nothing."""

    async def run() -> None:
        async with (
            serving(ok()) as server,
            egress(STRICT) as guard,
        ):
            policy = EgressPolicy(allow_http=True, allowed_ports=frozenset({server.port}))
            async with egress(policy) as on_that_port:
                for sender in (guard, on_that_port):
                    for host in ("127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]"):
                        assert_refused(await sender.send(get(f"http://{host}:{server.port}/")))
            assert server.connections == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "b\u00fccher.example", "under_score.example"]
)
def test_the_vetted_address_is_the_one_connected_to(host: str) -> None:
    """Whatever the system's own resolver says of the name; the Host header stays that of the URL."""

    async def run() -> None:
        async with serving_on_one_port((ok(), "127.0.0.2"), (ok(), "127.0.0.1")) as (vetted, other):
            async with egress(OPEN, ("127.0.0.2",)) as guard:
                outcome = await guard.send(get(f"http://{host}:{vetted.port}/hook"))
            assert isinstance(outcome, HttpResponse)
            assert other.connections == 0
            name = host.lower().encode("ascii" if host.isascii() else "idna")
            assert b"Host: %s:%d\r\n" % (name, vetted.port) in vetted.heads[0]

    asyncio.run(run())


def test_a_name_that_rebinds_is_refused_at_its_next_look_up() -> None:
    """Each request resolves anew, an open connection to the old address notwithstanding."""

    async def run() -> None:
        async with serving(ok()) as server, egress(OPEN, ("127.0.0.1",), ("169.254.169.254",)) as guard:
            url = f"http://rebind.example:{server.port}/"
            assert isinstance(await guard.send(get(url)), HttpResponse)
            assert_refused(await guard.send(get(url)))
            assert server.connections == len(server.heads) == 1

    asyncio.run(run())


def test_a_name_that_moves_is_followed() -> None:
    """A kept client does not outlive the answer that vetted its address."""

    async def run() -> None:
        async with serving_on_one_port((ok(), "127.0.0.1"), (ok(), "127.0.0.2")) as (old, new):
            async with egress(OPEN, ("127.0.0.1",), ("127.0.0.2",)) as guard:
                for _ in range(2):
                    assert isinstance(
                        await guard.send(get(f"http://moves.example:{old.port}/")), HttpResponse
                    )
            assert (len(old.heads), len(new.heads)) == (1, 1)

    asyncio.run(run())


def test_connections_are_kept_while_the_answer_rotates() -> None:
    """Round-robin DNS would else cost a new client and a new connection for each delivery."""

    async def run() -> None:
        addresses = ("127.0.0.1", "127.0.0.2")
        async with serving_on_one_port((ok(), "127.0.0.1"), (ok(), "127.0.0.2")) as (first, second):
            async with egress(OPEN, addresses, addresses[::-1], addresses) as guard:
                for _ in range(3):
                    assert isinstance(
                        await guard.send(get(f"http://cdn.example:{first.port}/")), HttpResponse
                    )
            assert (first.connections, len(first.heads), second.connections) == (1, 3, 0)

    asyncio.run(run())


def test_an_address_that_refuses_is_passed_over() -> None:
    """A host is up if one of its addresses is, and the one that worked comes first the next time."""

    async def run() -> None:
        async with (
            serving(ok(), "127.0.0.2") as server,
            egress(OPEN, ("127.0.0.3", "127.0.0.2")) as guard,
        ):
            assert isinstance(await guard.send(get(f"http://two.example:{server.port}/")), HttpResponse)
            assert guard._pinned.sorted_by_use("two.example", ("127.0.0.3", "127.0.0.2"))[0] == "127.0.0.2"

    asyncio.run(run())


def test_nothing_is_sent_to_another_address_once_it_may_have_been_sent() -> None:
    """Only a proved connect failure moves on; a webhook is not doubled by a reset."""

    async def drop(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def run() -> None:
        async with serving_on_one_port((drop, "127.0.0.2"), (ok(), "127.0.0.3")) as (bad, good):
            async with egress(OPEN, ("127.0.0.2", "127.0.0.3")) as guard:
                outcome = await guard.send(get(f"http://two.example:{bad.port}/"))
            assert isinstance(outcome, HttpFailure)
            assert outcome.sent is Sent.MAYBE_SENT
            assert good.connections == 0

    asyncio.run(run())


def test_a_redirect_is_given_back() -> None:
    """Following it is for the caller, through the guard again."""

    async def run() -> None:
        reply = answer("302 Found", "Location: http://169.254.169.254/latest/meta-data/")
        async with serving(reply) as server, egress() as guard:
            outcome = await guard.send(get(server.url))
        assert isinstance(outcome, HttpResponse)
        assert outcome.status == 302

    asyncio.run(run())


def test_names_that_do_not_resolve_are_not_sent() -> None:
    """A name error, no address, and a name server that hangs: three ways to the same end."""

    async def hang(_host: str) -> tuple[str, ...]:
        await asyncio.sleep(60)
        return ()

    async def run() -> None:
        async with egress() as by_system, egress(OPEN, ()) as by_nobody:
            hanging = Egress(OPEN, resolver=hang)
            for guard in (by_system, by_nobody, hanging):
                outcome = await guard.send(get("http://darkroom-unit.invalid/", deadline_s=0.3))
                assert isinstance(outcome, HttpFailure)
                assert (outcome.sent, outcome.cause) == (Sent.NOT_SENT, FailureCause.DNS_FAILED)
            await hanging.aclose()

    asyncio.run(run())


def test_the_system_resolver_shares_a_look_up_under_way_and_keeps_none() -> None:
    """A hundred deliveries at once ask once; the next delivery asks again."""

    async def run() -> None:
        resolver = SystemResolver()
        answers = await asyncio.gather(*(resolver("localhost") for _ in range(100)))
        assert all(answer == answers[0] for answer in answers)
        assert "127.0.0.1" in answers[0]
        assert resolver._running == {}
        resolver.close()

    asyncio.run(run())


def test_a_look_up_survives_the_caller_who_began_it() -> None:
    """One delivery that gives up must not fail the others that wait for the same name."""

    async def run() -> None:
        resolver = SystemResolver()
        first = asyncio.create_task(resolver("localhost"))
        second = asyncio.create_task(resolver("localhost"))
        await asyncio.sleep(0)
        first.cancel()
        assert "127.0.0.1" in await second
        resolver.close()

    asyncio.run(run())


def test_names_that_nobody_waits_for_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name servers that hang would be asked for what was given up long ago, and those who wait come after it."""
    looked_up: list[str] = []
    release = threading.Event()

    def look_up(host: str) -> list[str]:
        looked_up.append(host)
        release.wait(10)
        return ["192.0.2.1"]

    async def run() -> None:
        resolver = SystemResolver(threads=1)
        first = asyncio.create_task(resolver("first.test"))
        given_up = [asyncio.create_task(resolver(f"{nr % 3}.test")) for nr in range(6)]
        await asyncio.wait(given_up, timeout=0.05)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        last = asyncio.create_task(resolver("last.test"))
        await asyncio.sleep(0)
        release.set()
        assert [await first, await last] == [["192.0.2.1"]] * 2
        assert looked_up == ["first.test", "last.test"]
        assert resolver._running == {}
        resolver.close()

    monkeypatch.setattr(egress_module, "_look_up", look_up)
    asyncio.run(run())


# --- clients and TLS ------------------------------------------------------------------------------------------------


def test_clients_are_bounded_and_none_is_closed_in_use() -> None:
    """More hosts than clients: the oldest goes, once its request is answered."""

    async def slowly(_head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(ok())

    async def run() -> None:
        async with serving(slowly) as server, egress(OPEN, ("127.0.0.1",), max_clients=2) as guard:
            urls = [f"http://host-{number}.example:{server.port}/" for number in range(6)]
            outcomes = await asyncio.gather(*(guard.send(get(url)) for url in urls))
            assert all(isinstance(outcome, HttpResponse) for outcome in outcomes)
            assert len(guard._pinned._entries) == 2

    asyncio.run(run())


def test_many_at_once_share_one_new_client() -> None:
    """Building a client is dear; a burst to a new host must not build one each."""

    async def run() -> None:
        async with serving(ok()) as server, egress(OPEN, ("127.0.0.1",)) as guard:
            url = f"http://burst.example:{server.port}/"
            outcomes = await asyncio.gather(*(guard.send(get(url)) for _ in range(20)))
            assert all(isinstance(outcome, HttpResponse) for outcome in outcomes)
            assert len(guard._pinned._entries) == 1

    asyncio.run(run())


def test_a_client_that_could_not_be_built_is_built_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment without threads or files must not close a host for good."""

    def fail(**_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        async with serving(ok()) as server, egress(OPEN, ("127.0.0.1",)) as guard:
            url = f"http://once.example:{server.port}/"
            with monkeypatch.context() as patched:
                patched.setattr("workers.delivery.egress.PyreqwestClient", fail)
                with pytest.raises(RuntimeError):
                    await guard.stream(get(url), bytearray().extend)
            assert isinstance(await guard.send(get(url)), HttpResponse)

    asyncio.run(run())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a certificate for hook.example, with its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hook.example"
            " -addext subjectAltName=DNS:hook.example -addext basicConstraints=critical,CA:FALSE"
            " -keyout key.pem -out cert.pem"
        ),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


def server_tls(certificate: Path, on_name: Callable[[str | None], None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    context.sni_callback = lambda _socket, name, _context: on_name(name)
    return context


def test_tls_is_verified_for_the_name_of_the_url(certificate: Path) -> None:
    """The address is chosen by us, the name by the URL: SNI carries it, and the certificate must match it."""
    names: list[str | None] = []
    trusted = certificate.read_bytes()

    async def run() -> None:
        tls = server_tls(certificate, names.append)
        async with (
            serving(ok(), "127.0.0.2", tls=tls) as server,
            egress(OPEN, ("127.0.0.2",), ca_pem=trusted) as guard,
        ):
            right = await guard.send(get(f"https://hook.example:{server.port}/"))
            assert isinstance(right, HttpResponse)
            wrong = await guard.send(get(f"https://other.example:{server.port}/"))
            assert isinstance(wrong, HttpFailure)
            assert (wrong.sent, wrong.cause) == (Sent.NOT_SENT, FailureCause.TLS_FAILED)

    asyncio.run(run())
    assert names == ["hook.example", "other.example"]
