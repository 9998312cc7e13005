"""The proxy does to a connection what it is told, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.faults.judge import judge
from tests.faults.proxy import FAIR, LOSE_TO_CLIENT, LOSE_TO_SERVER, Proxy, Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.campaign import FaultHouse

HELLO = b"0123456789"


class Echo:
    """A server that sends back what it gets; `got` is everything it saw, `resets` the connections ended by RST."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.got, self.resets, self.ends = b"", 0, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    self.got += data
                    connection.sendall(data)
                self.ends += 1
            except ConnectionError:
                self.resets += 1

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as between:
        yield between


def _connect(proxy: Proxy, timeout_s: float = 5) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


def _asked(connection: socket.socket, data: bytes = HELLO) -> bytes:
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        part = connection.recv(65_536)
        if not part:
            break
        got += part
    return got


def _all_of(connection: socket.socket) -> tuple[bytes, type[ConnectionError] | None]:
    """Read to the end; give what came, and what ended it if that was not in order."""
    got = b""
    try:
        while part := connection.recv(1):
            got += part
    except ConnectionError as error:
        return got, type(error)
    return got, None


def _wait(true: Callable[[], bool], within_s: float = 5) -> bool:
    until = time.monotonic() + within_s
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def test_bytes_and_ends_pass(proxy: Proxy, echo: Echo) -> None:
    """In fair weather nobody notices it: a megabyte there and back, and the end of each direction."""
    big = bytes(range(256)) * 4096
    with _connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(big,), daemon=True).start()
        got = b""
        while len(got) < len(big):
            got += client.recv(65_536)
        assert got == big
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert (echo.ends, echo.resets) == (1, 0)
    assert _wait(lambda: not proxy.connections)


def test_delay_is_added_each_way_and_pipelines(proxy: Proxy) -> None:
    """A delay does not add up over what is under way together."""
    proxy.turn(Weather(delay_s=0.3))
    with _connect(proxy) as client:
        started = time.monotonic()
        for at in range(5):
            client.sendall(HELLO[at : at + 1])
            time.sleep(0.02)
        assert _asked(client, b"x") in (b"0", b"01", b"012", b"0123", b"01234", b"01234x")
        assert 0.6 <= time.monotonic() - started < 1.4
    proxy.turn(FAIR)
    with _connect(proxy) as client:
        started = time.monotonic()
        assert _asked(client) == HELLO
        assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(("weather", "arrives"), [(LOSE_TO_SERVER, b""), (LOSE_TO_CLIENT, HELLO)])
def test_a_lost_direction_stays_lost(proxy: Proxy, echo: Echo, weather: Weather, arrives: bytes) -> None:
    """The half-open connection: silence, not an error, also after the weather is fair; a new one works."""
    with _connect(proxy) as client:
        proxy.turn(weather)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            _asked(client)
        assert echo.got == arrives
        proxy.turn(FAIR)
        with pytest.raises(TimeoutError):
            _asked(client)
        with _connect(proxy) as another:
            assert _asked(another) == HELLO


def test_held_bytes_arrive_later_in_order(proxy: Proxy, echo: Echo) -> None:
    """A network that hangs and recovers."""
    with _connect(proxy) as client:
        proxy.turn(Weather(hold=frozenset({"to_server"})))
        client.sendall(HELLO[:5])
        client.sendall(HELLO[5:])
        time.sleep(0.2)
        assert echo.got == b""
        proxy.turn(FAIR)
        assert _wait(lambda: echo.got == HELLO)


def test_reset_ends_both_sides_by_rst(proxy: Proxy, echo: Echo) -> None:
    """RST, not FIN: the client's next read raises."""
    with _connect(proxy) as one, _connect(proxy) as two:
        assert _asked(one) == _asked(two) == HELLO
        assert proxy.connections == [1, 2]
        assert proxy.reset_all() == 2
        for client in (one, two):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert _wait(lambda: echo.resets == 2)


def test_an_rst_of_one_end_reaches_the_other(proxy: Proxy, echo: Echo) -> None:
    """It does not turn into an orderly end."""
    client = _connect(proxy)
    assert _asked(client) == HELLO
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert _wait(lambda: echo.resets == 1)
    assert echo.ends == 0


def test_an_answer_is_cut_after_so_many_bytes(proxy: Proxy, echo: Echo) -> None:
    """The server has it all, the client part of the answer."""
    proxy.turn(Weather(cut_after=4))
    with _connect(proxy) as client:
        client.sendall(HELLO)
        got, end = _all_of(client)
        assert HELLO[:4].startswith(got)  # an RST may overtake what was sent before it
        assert end is ConnectionResetError
    assert echo.got == HELLO


def test_slices_trickle(proxy: Proxy) -> None:
    """Slow loris: two bytes every 50 ms, each way."""
    proxy.turn(Weather(slice_bytes=2, slice_every_s=0.05))
    with _connect(proxy) as client:
        started = time.monotonic()
        client.sendall(HELLO)
        first = client.recv(100)
        assert len(first) == 2
        assert _asked(client, b"") == b""
        rest = first
        while len(rest) < len(HELLO):
            rest += client.recv(100)
        assert rest == HELLO
        assert time.monotonic() - started >= 0.2


def test_one_connection_may_have_weather_of_its_own(proxy: Proxy) -> None:
    """By number, also before it arrives."""
    proxy.turn(Weather(refuse=True), connection=2)
    with _connect(proxy) as one, _connect(proxy) as two, _connect(proxy) as three:
        assert _asked(one) == _asked(three) == HELLO
        assert _all_of(two) == (b"", ConnectionResetError)


def test_it_leads_to_another_server(proxy: Proxy, echo: Echo) -> None:
    """Connections made from then on reach it; one that is open stays where it is."""
    with _connect(proxy) as old, closing(Echo()) as other:
        assert _asked(old) == HELLO
        proxy.lead_to(other.address)
        with _connect(proxy) as new:
            assert _asked(new, b"new") == b"new"
        assert _asked(old, b"old") == b"old"
        assert (echo.got, other.got) == (HELLO + b"old", b"new")


def test_a_server_that_is_down_resets(proxy: Proxy, echo: Echo) -> None:
    """Nobody behind it: the connection ends at once, maybe before its maker was told that it is made."""
    echo.close()
    with pytest.raises(ConnectionResetError), _connect(proxy) as client:
        assert client.recv(1) == b"never"


def test_a_house_whose_every_way_is_a_proxy(faults: FaultHouse) -> None:
    """Jobs complete through proxies before the state server, the broker, the provider and the sink; each was used."""
    proxies = [faults.through(part) for part in ("state", "broker", "provider", "sink")]
    faults.worker()
    ids = faults.enqueue_for_judgement(5)
    faults.quiet(5)
    verdict = judge(faults, ids)
    assert verdict.clean, verdict
    assert faults.producer().batch("b").counts["completed"] == 5
    assert all(proxy.seen for proxy in proxies)
