"""The object store on S3: links, credentials, and what servers do to puts."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from shared.errors import StorageError
from shared.settings import StorageSettings
from shared.storage import open_store
from tests.integration.fake_s3 import FakeS3
from tests.integration.storage_content import KEY, PNG, Contents, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = "canary-credential"


@pytest.fixture
def content(tmp_path: Path) -> Contents:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Contents(folder)


@pytest.fixture
def fake_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setenv("TESTS_S3_CANARY", CANARY)
    with FakeS3() as fake:
        yield fake


@pytest.fixture
def s3_settings(request: pytest.FixtureRequest) -> StorageSettings:
    return settings_of("s3", request)


def changed(settings: StorageSettings, **values: Any) -> StorageSettings:
    return StorageSettings.model_validate(settings.model_dump() | values)


async def test_a_presigned_link_reads_without_credentials(
    s3_settings: StorageSettings, content: Contents
) -> None:
    """For as long as the setting says, with the sniffed type; the bare URL is refused."""
    store = open_store(changed(s3_settings, links="presigned", presign_ttl_s=77))
    image = content()
    await store.put_file(KEY, image.path, **image.facts)
    link = store.link(KEY)
    assert link is not None
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["77"]
    async with httpx.AsyncClient(trust_env=False) as client:
        signed, bare = await client.get(link), await client.get(link.partition("?")[0])
    assert (signed.status_code, signed.content, signed.headers["content-type"]) == (200, image.body, PNG)
    assert bare.status_code == 403


async def test_a_virtual_hosted_link_is_signed_for_its_host(
    s3_settings: StorageSettings, content: Contents
) -> None:
    """The server finds the bucket by the Host header and the signature right; no resolver knows the name here."""
    image = content()
    await open_store(s3_settings).put_file(KEY, image.path, **image.facts)
    assert s3_settings.endpoint is not None
    port = urlsplit(s3_settings.endpoint).port
    hosted = changed(s3_settings, virtual_hosted=True, endpoint=f"http://s3.test:{port}")
    link = urlsplit(open_store(hosted).presign(KEY, 60))
    assert link.netloc == f"darkroom-tests.s3.test:{port}"
    async with httpx.AsyncClient(base_url=s3_settings.endpoint, trust_env=False) as client:
        path = f"{link.path}?{link.query}"
        found = await client.get(path, headers={"host": link.netloc})
        forged = await client.get(path, headers={"host": f"other.s3.test:{port}"})
    assert (found.status_code, found.content, forged.status_code) == (200, image.body, 403)


async def test_credentials_of_the_settings_stand_alone(
    s3_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token or key that happens to be in the environment is not mixed in."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(variable, "of-somebody-else")
    await open_store(s3_settings).probe()


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
async def test_wrong_credentials_are_denied_and_not_shown(
    s3_settings: StorageSettings, content: Contents, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Neither message, repr nor traceback holds a character of them, on any way in."""
    monkeypatch.setenv("TESTS_S3_CANARY", CANARY)
    store = open_store(changed(s3_settings, **{wrong: {"env": "TESTS_S3_CANARY"}}))
    image = content()
    for use in (
        store.put_file(KEY, image.path, **image.facts),
        store.put_input_async("acme", b"x", PNG, "png"),
        store.read(KEY),
        store.head(KEY),
        store.sha256_of(KEY),
        store.probe(),
    ):
        with pytest.raises(StorageError, match=r"403.*Check its credentials") as caught:
            await use
        assert caught.value.kind == "denied"
        assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


async def test_a_server_that_is_not_there_is_unavailable(
    s3_settings: StorageSettings, content: Contents
) -> None:
    """Refused connections are told as such, soon."""
    image = content()
    store = open_store(changed(s3_settings, endpoint="http://127.0.0.1:1"))
    with pytest.raises(StorageError, match=r"no connection.*reachable") as caught:
        await store.put_file(KEY, image.path, **image.facts)
    assert caught.value.kind == "unavailable"


def s3_error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>for {{key}}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", "unavailable"),
        (503, "SlowDown", "unavailable"),
        (400, "RequestTimeout", "unavailable"),
        (401, "InvalidToken", "denied"),
        (403, "AccessDenied", "denied"),
        (403, "QuotaExceeded", "full"),
        (404, "NoSuchBucket", "missing"),
        (507, "XMinioStorageFull", "full"),
        (507, "", "full"),
    ],
)
async def test_what_a_server_answers_is_told_by_kind(
    fake_s3: FakeS3, content: Contents, status: int, code: str, kind: str
) -> None:
    """The kind decides what a worker does; the message has status and code, and nothing else of the answer."""
    fake_s3.faults["PUT"] = (status, s3_error(code))
    image = content()
    with pytest.raises(StorageError) as caught:
        await open_store(fake_s3.settings).put_file(KEY, image.path, **image.facts)
    assert caught.value.kind == kind
    assert CANARY not in str(caught.value)
    if kind != "missing":
        assert f"({status} {code}".strip() in str(caught.value)


async def test_a_conflict_with_an_unfinished_put_is_tried_again(fake_s3: FakeS3, content: Contents) -> None:
    """S3 answers 409 while another put of the key is under way: there may be nothing to compare with yet."""
    fake_s3.faults["PUT"] = (409, s3_error("ConditionalRequestConflict"))
    image = content()
    with pytest.raises(StorageError, match="tried again") as caught:
        await open_store(fake_s3.settings).put_file(KEY, image.path, **image.facts)
    assert caught.value.kind == "unavailable"


async def test_a_put_whose_answer_was_lost_is_success(fake_s3: FakeS3, content: Contents) -> None:
    """The retry finds what the first try made, and that is ours."""
    fake_s3.lose_replies_of_puts = 1
    image = content()
    outcome = await open_store(fake_s3.settings).put_file(KEY, image.path, **image.facts)
    assert outcome == "identical"
    assert fake_s3.requests.count("PUT") == 2


async def test_a_server_that_truncates_is_found_out(fake_s3: FakeS3, content: Contents) -> None:
    """What it kept is removed, so that a later try can succeed."""
    fake_s3.cut_to = 4
    image, store = content(), open_store(fake_s3.settings)
    with pytest.raises(StorageError, match="kept 4 of 10 bytes"):
        await store.put_file(KEY, image.path, **image.facts)
    with pytest.raises(StorageError, match="kept 4 of 7 bytes"):
        await store.put_input_async("acme", b"payload", PNG, "png")
    with pytest.raises(StorageError, match="kept 4 of 7 bytes"):
        store.put_input("acme", b"payload", PNG, "png")
    assert fake_s3.objects == {}
    fake_s3.cut_to = None
    assert await store.put_file(KEY, image.path, **image.facts) == "created"


async def test_a_store_that_gives_other_bytes_fails_the_probe(fake_s3: FakeS3) -> None:
    """A cache or proxy in between that answers for the store is found at the start."""
    store = open_store(fake_s3.settings)
    await store.probe()
    fake_s3.faults["GET"] = (200, b"sixteen bytes ok")
    with pytest.raises(StorageError, match="other bytes"):
        await store.probe()
    assert fake_s3.objects == {}
