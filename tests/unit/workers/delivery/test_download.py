"""Downloads: an image that is all there becomes a file with its facts, anything else becomes a kind of failure."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.unit.workers.delivery.loopback_server import LoopbackServer, answer, ok, serving
from workers.delivery.download import Downloaded, Downloader, DownloadFailure, DownloadTrouble
from workers.delivery.egress import Egress, EgressPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPEN = EgressPolicy(allow_private=True, allow_http=True)
LIMIT_BYTES = 2 * 1024 * 1024


def image(format_name: str = "PNG", size: tuple[int, int] = (48, 32), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, format_name, **options)
    return buffer.getvalue()


def fetch(
    tmp_path: Path,
    reply: bytes | Callable[[LoopbackServer], bytes],
    *,
    deadline_s: float = 5,
    result_hosts: tuple[str, ...] = (),
) -> tuple[Downloaded | DownloadFailure, LoopbackServer]:
    """Fetch from a server that gives this reply (which may name the server's own URL)."""

    async def run() -> tuple[Downloaded | DownloadFailure, LoopbackServer]:
        async def respond(_head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(reply if isinstance(reply, bytes) else reply(server))

        async with serving(respond) as server:
            egress = Egress(OPEN)
            try:
                downloader = Downloader(egress, tmp_path / "parts", LIMIT_BYTES, result_hosts)
                return await downloader.fetch(server.url, deadline_s=deadline_s), server
            finally:
                await egress.aclose()

    return asyncio.run(run())


def assert_failed(
    outcome: Downloaded | DownloadFailure, kind: DownloadTrouble, cause: str, tmp_path: Path
) -> None:
    """Check the failure, that it shows no signature, and that no file is left."""
    assert isinstance(outcome, DownloadFailure)
    assert (outcome.kind, outcome.cause) == (kind, cause)
    assert "canary" not in repr(outcome)
    assert list((tmp_path / "parts").iterdir()) == []


@pytest.mark.parametrize(
    ("format_name", "media_type", "extension"),
    [
        ("PNG", "image/png", "png"),
        ("JPEG", "image/jpeg", "jpg"),
        ("WEBP", "image/webp", "webp"),
        ("GIF", "image/gif", "gif"),
        ("BMP", "image/bmp", "bmp"),
        ("AVIF", "image/avif", "avif"),
    ],
)
def test_an_image_becomes_a_file_with_its_facts(
    tmp_path: Path, format_name: str, media_type: str, extension: str
) -> None:
    """What the server says of the type is not asked; the file is ours alone to read."""
    data = image(format_name)
    outcome, server = fetch(tmp_path, ok(data, "Content-Type: text/html"))
    assert isinstance(outcome, Downloaded)
    assert outcome == Downloaded(
        outcome.path, hashlib.sha256(data).hexdigest(), len(data), media_type, extension, 48, 32
    )
    assert outcome.path.read_bytes() == data
    assert outcome.path.stat().st_mode & 0o777 == 0o600
    assert b"authorization" not in server.heads[0].lower()


def test_a_large_image_is_streamed_whole(tmp_path: Path) -> None:
    """Many chunks make the same file and the same hash as one."""
    data = image(size=(900, 700))
    assert len(data) > 500_000
    outcome, _ = fetch(tmp_path, ok(data))
    assert isinstance(outcome, Downloaded)
    assert outcome.sha256 == hashlib.sha256(data).hexdigest()
    assert outcome.path.read_bytes() == data


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_expired_or_missing_url_is_gone(tmp_path: Path, status: int) -> None:
    """The same URL will not get better: a fresh one must be asked for."""
    outcome, _ = fetch(tmp_path, answer(f"{status} X", body=image()))
    assert_failed(outcome, DownloadTrouble.GONE, f"status_{status}", tmp_path)


@pytest.mark.parametrize("status", [202, 204, 206, 304, 429, 500, 502, 503])
def test_other_statuses_are_tried_again(tmp_path: Path, status: int) -> None:
    """Even with an image as body: only a 200 is the result."""
    body = b"" if status in {204, 304} else image()
    outcome, _ = fetch(tmp_path, answer(f"{status} X", body=body))
    assert_failed(outcome, DownloadTrouble.RETRY, f"status_{status}", tmp_path)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Service busy</html>", "error_page"),
        (b"\xef\xbb\xbf \n<html>", "error_page"),
        (b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>", "error_page"),
        (b'{"error": "later"}', "error_page"),
        (image()[:-5], "truncated"),
        (image("JPEG")[:-100], "truncated"),
        (image("WEBP")[:200], "truncated"),
    ],
)
def test_what_may_pass_is_tried_again(tmp_path: Path, body: bytes, cause: str) -> None:
    """A 200 whose body is no whole image is no success, and no final failure either."""
    outcome, _ = fetch(tmp_path, ok(body, "Content-Type: image/png"))
    assert_failed(outcome, DownloadTrouble.RETRY, cause, tmp_path)


@pytest.mark.parametrize(
    "body", [b"%PDF-1.7", b"<svg xmlns='x'/>", b"<?xml version='1.0'?><svg/>", b"MZ\x90\0", b"plain text"]
)
def test_other_files_are_not_images(tmp_path: Path, body: bytes) -> None:
    """SVG above all: it is a program."""
    outcome, _ = fetch(tmp_path, ok(body, "Content-Type: image/png"))
    assert_failed(outcome, DownloadTrouble.NOT_AN_IMAGE, "not_an_image", tmp_path)


def test_a_body_cut_by_the_connection_is_tried_again(tmp_path: Path) -> None:
    """Shorter than its Content-Length."""

    async def run() -> Downloaded | DownloadFailure:
        async def cut(_head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(ok(image(size=(300, 300)))[:100_000])
            writer.close()

        async with serving(cut) as server:
            egress = Egress(OPEN)
            try:
                return await Downloader(egress, tmp_path / "parts", LIMIT_BYTES).fetch(
                    server.url, deadline_s=5
                )
            finally:
                await egress.aclose()

    assert_failed(asyncio.run(run()), DownloadTrouble.RETRY, "closed", tmp_path)


@pytest.mark.parametrize("declared", [b"Content-Length: 1000000000\r\n", b"Connection: close\r\n"])
def test_a_body_over_the_limit_is_given_up(tmp_path: Path, declared: bytes) -> None:
    """Whatever its length was said to be, or if none was."""
    body = image()[:-12] + b"\0" * (LIMIT_BYTES + 200_000)
    outcome, _ = fetch(tmp_path, b"HTTP/1.1 200 OK\r\n" + declared + b"\r\n" + body)
    assert_failed(outcome, DownloadTrouble.TOO_LARGE, "response_too_large", tmp_path)


def test_a_server_that_stalls_is_left_at_the_deadline(tmp_path: Path) -> None:
    """The deadline is one for all: head, body and redirects."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    outcome, _ = fetch(tmp_path, head + image()[:50], deadline_s=0.3)
    assert_failed(outcome, DownloadTrouble.RETRY, "timeout", tmp_path)


def test_redirects_are_followed_three_times(tmp_path: Path) -> None:
    """Object stores redirect once or twice; relative locations count as well."""

    def hops(left: int) -> Callable[[LoopbackServer], bytes]:
        def reply(server: LoopbackServer) -> bytes:
            if len(server.heads) > left:
                return ok(image())
            location = f"/next?{len(server.heads)}" if len(server.heads) % 2 else server.url
            return answer("302 Found", f"Location: {location}")

        return reply

    outcome, server = fetch(tmp_path, hops(3))
    assert isinstance(outcome, Downloaded)
    assert len(server.heads) == 4
    outcome.path.unlink()
    outcome, server = fetch(tmp_path, hops(4))
    assert_failed(outcome, DownloadTrouble.RETRY, "too_many_redirects", tmp_path)
    assert len(server.heads) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "//100.100.100.200/",
        "http://user@127.0.0.1/",
        "ftp://example.com/x.png",
        "file:///etc/passwd",
        "http://[fd00:ec2::254]/",
    ],
)
def test_a_redirect_is_vetted_again(tmp_path: Path, location: str) -> None:
    """The first hop's good name opens no door."""
    outcome, server = fetch(tmp_path, answer("302 Found", f"Location: {location}"))
    assert_failed(outcome, DownloadTrouble.FORBIDDEN, "forbidden_address", tmp_path)
    assert len(server.heads) == 1


@pytest.mark.parametrize("location", ["", "http://", "http://exa mple/"])
def test_a_redirect_to_nowhere_is_tried_again(tmp_path: Path, location: str) -> None:
    """No location, or none that parses."""
    outcome, _ = fetch(tmp_path, answer("302 Found", f"Location: {location}"))
    assert_failed(outcome, DownloadTrouble.RETRY, "status_302", tmp_path)


def test_result_hosts_hold_for_every_hop(tmp_path: Path) -> None:
    """The allowlist of an account's results is no gate for the first hop only."""
    outcome, server = fetch(tmp_path, ok(image()), result_hosts=("cdn.example",))
    assert_failed(outcome, DownloadTrouble.FORBIDDEN, "forbidden_address", tmp_path)
    assert server.connections == 0
    outcome, server = fetch(
        tmp_path,
        lambda server: answer("302 Found", f"Location: http://localhost:{server.port}/"),
        result_hosts=("127.0.0.1",),
    )
    assert_failed(outcome, DownloadTrouble.FORBIDDEN, "forbidden_address", tmp_path)
    outcome, _ = fetch(tmp_path, ok(image()), result_hosts=("127.0.0.1",))
    assert isinstance(outcome, Downloaded)


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own trouble is not the image's."""
    data = image(size=(300, 300))
    write, written = os.write, 0

    def no_space(file: int, chunk: bytes | memoryview) -> int:
        nonlocal written
        written += len(chunk)
        if written > 100_000:
            raise OSError(28, "No space left on device")
        return write(file, chunk)

    monkeypatch.setattr("workers.delivery.download.os.write", no_space)
    outcome, _ = fetch(tmp_path, ok(data))
    assert_failed(outcome, DownloadTrouble.RETRY, "local_disk", tmp_path)


def test_cancelling_leaves_no_file(tmp_path: Path) -> None:
    """A worker that stops in the middle of a download cleans up."""

    async def run() -> None:
        async def stall(_head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 200_000)

        async with serving(stall) as server:
            egress = Egress(OPEN)
            downloader = Downloader(egress, tmp_path / "parts", LIMIT_BYTES)
            fetching = asyncio.create_task(downloader.fetch(server.url, deadline_s=2))
            while not list((tmp_path / "parts").iterdir()):
                await asyncio.wait({fetching}, timeout=0.01)
                assert not fetching.done()
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            await egress.aclose()

    asyncio.run(run())
    assert list((tmp_path / "parts").iterdir()) == []


def test_what_killed_workers_left_is_swept(tmp_path: Path) -> None:
    """Old parts go; young ones may be in use by another worker, and other files are not ours."""

    async def run() -> None:
        egress = Egress(OPEN)
        Downloader(egress, tmp_path, LIMIT_BYTES)
        await egress.aclose()

    names = ("darkroom-result-old.part", "darkroom-result-young.part", "other")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (0, 0))
    asyncio.run(run())
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
