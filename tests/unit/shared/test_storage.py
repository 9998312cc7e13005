"""What needs no server: keys, what cannot be opened, links, and the budget of bodies in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError, StorageError
from shared.jobs.names import NAME_PATTERN
from shared.object_writers import ByteBudget
from shared.settings import StorageSettings
from shared.settings_section import SecretReference
from shared.storage import artifact_key, input_key, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

SHA = "0123456789abcdef" * 4
TENANTS = st.from_regex(NAME_PATTERN, fullmatch=True)
BAD_NAMES = [
    "", ".", "..", "../x", "a/b", "/a", "a\\b", ".hidden", "-x", "a\0b", "a\n", "a b", "%2e%2e", "ä", "a" * 65,
]  # fmt: skip


# --- keys -----------------------------------------------------------------------------------------------------------


def test_keys_are_as_documented() -> None:
    """Consumers and operators rely on where objects lie."""
    assert artifact_key("acme", "job_1", 3, "png") == "acme/job_1/3.png"
    assert input_key("acme", SHA, "jpg") == f"inputs/acme/{SHA}.jpg"


@given(tenant=TENANTS, other=TENANTS, index=st.integers(0, 11))
def test_no_artifact_and_no_input_share_a_key(tenant: str, other: str, index: int) -> None:
    """Not even for a tenant called `inputs` and a job named like a tenant."""
    assert artifact_key(tenant, other, index, "png") != input_key(other, SHA, "png")


@given(tenant=TENANTS, job=TENANTS, index=st.integers(0, 11))
def test_every_key_stays_in_its_tenants_folder(tenant: str, job: str, index: int) -> None:
    """Joined to a root, a key leads to exactly one place two levels below."""
    key = artifact_key(tenant, job, index, "png")
    assert Path("/root", key).resolve() == Path("/root") / tenant / job / f"{index}.png"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_part_that_leads_elsewhere_is_no_key(name: str) -> None:
    """Neither tenant nor job may climb, hide or hold a separator."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: artifact_key(name, "job_1", 0, "png"),
        lambda: artifact_key("acme", name, 0, "png"),
        lambda: input_key(name, SHA, "png"),
    )
    for make in makers:
        with pytest.raises(StorageError, match="cannot be part of an object key") as caught:
            make()
        assert caught.value.kind == "denied"


@pytest.mark.parametrize("extension", ["", "PNG", "p/g", "..", "tar.gz", "toolongext"])
def test_an_odd_extension_is_no_key(extension: str) -> None:
    """Extensions come from sniffed types; what is not one is a mistake."""
    with pytest.raises(StorageError):
        artifact_key("acme", "job_1", 0, extension)
    with pytest.raises(StorageError):
        input_key("acme", SHA, extension)


@pytest.mark.parametrize("sha256", ["", SHA.upper(), SHA[:-1], "../" + SHA[3:]])
def test_an_input_is_named_by_a_hash(sha256: str) -> None:
    """Anything else would break that the same key means the same bytes."""
    with pytest.raises(StorageError):
        input_key("acme", sha256, "png")


def test_an_index_counts_from_zero() -> None:
    """A negative index is a mistake."""
    with pytest.raises(StorageError, match="Count from 0"):
        artifact_key("acme", "job_1", -1, "png")


# --- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "off"}, "storage.url is none of"),
        ({"url": ""}, "storage.url is none of"),
        ({"url": "gs://bucket"}, "storage.url is none of"),
        ({"url": "file://"}, "storage.url is none of"),
        ({"url": "s3://"}, "storage.url is none of"),
        ({"url": "s3://key:canary@bucket/prefix"}, "storage.url is none of"),
        ({"url": "s3://bucket/prefix?secret=canary"}, "storage.url is none of"),
        ({"url": "s3://bucket", "endpoint": "s3.example"}, "storage.endpoint is not a plain"),
        (
            {"url": "s3://bucket", "endpoint": "https://k:canary@s3.example"},
            "storage.endpoint is not a plain",
        ),
        ({"url": "s3://bucket", "endpoint": "http://s3.example"}, "set storage.allow_http"),
        ({"url": "memory://", "links": "public"}, "Set it"),
        ({"url": "memory://", "links": "presigned"}, "needs s3:// storage"),
        ({"url": "s3://bucket", "access_key_id": SecretReference(env="TESTS_ID")}, "Set both or none"),
        (
            {
                "url": "s3://bucket",
                "access_key_id": SecretReference(env="TESTS_ID"),
                "secret_access_key": SecretReference(env="TESTS_NOT_SET"),
            },
            "TESTS_NOT_SET is empty",
        ),
        ({"url": "s3://bucket", "session_token": SecretReference(env="TESTS_ID")}, "Set both or none"),
        ({"url": "s3://b.c", "virtual_hosted": True, "endpoint": "https://10.0.0.7"}, "needs a name"),
        ({"url": "s3://b.c", "virtual_hosted": True, "endpoint": "https://[::1]:9"}, "needs a name"),
    ],
)
def test_settings_that_cannot_work_say_so_at_the_start(
    settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before a job is paid for, in one sentence, without what may be a secret."""
    monkeypatch.setenv("TESTS_ID", "canary-id")
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_store(StorageSettings(**settings))
    assert "canary" not in str(caught.value)


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Not a directory"):
        open_store(StorageSettings(url=f"file://{tmp_path}/file/store"))


async def test_a_relative_folder_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fixed when the store is opened: a later change of directory moves nothing."""
    monkeypatch.chdir(tmp_path)
    store = open_store(StorageSettings(url="file://artifacts/of tests"))
    monkeypatch.chdir("/")
    key = await store.put_input_async("acme", b"x", "image/png", "png")
    assert (tmp_path / "artifacts" / "of tests" / key).read_bytes() == b"x"


def test_a_store_shows_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repr ends up in logs."""
    monkeypatch.setenv("TESTS_ID", "canary-id")
    reference = SecretReference(env="TESTS_ID")
    store = open_store(
        StorageSettings(url="s3://bucket", access_key_id=reference, secret_access_key=reference)
    )
    assert repr(store) == "ObjectStore(s3://bucket)"
    assert "canary" not in repr(vars(store))


@pytest.mark.parametrize(
    ("endpoint", "hosted", "expected"),
    [
        (None, False, "https://s3.eu-west-1.amazonaws.com/pictures/pre/k"),
        (None, True, "https://pictures.s3.eu-west-1.amazonaws.com/pre/k"),
        ("https://s3.example:8443", False, "https://s3.example:8443/pictures/pre/k"),
        ("https://s3.example:8443", True, "https://pictures.s3.example:8443/pre/k"),
        ("https://pictures.s3.example", True, "https://pictures.s3.example/pre/k"),
    ],
)
def test_the_bucket_is_in_the_path_or_in_the_host(
    endpoint: str | None, hosted: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the setting says, with AWS and with others, also if the endpoint names the bucket already."""
    monkeypatch.setenv("TESTS_ID", "id")
    own = SecretReference(env="TESTS_ID")
    settings = StorageSettings(
        url="s3://pictures/pre", region="eu-west-1", endpoint=endpoint, virtual_hosted=hosted,
        access_key_id=own, secret_access_key=own,
    )  # fmt: skip
    assert open_store(settings).presign("k", 60).partition("?")[0] == expected


def test_a_session_token_goes_with_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is signed into requests, and is not in them if there is none, whatever the environment holds."""
    monkeypatch.setenv("TESTS_ID", "id")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
    (tmp_path / "token").write_text("temporary/token\n")
    own = SecretReference(env="TESTS_ID")
    plain = StorageSettings(url="s3://pictures", access_key_id=own, secret_access_key=own)
    temporary = plain.model_copy(update={"session_token": SecretReference(file=tmp_path / "token")})
    signed = [parse_qs(urlsplit(open_store(each).presign("k", 60)).query) for each in (plain, temporary)]
    assert [query.get("X-Amz-Security-Token") for query in signed] == [None, ["temporary/token"]]


# --- links ----------------------------------------------------------------------------------------------------------


def test_keys_alone_need_no_link() -> None:
    """The default: who reads objects has access of its own."""
    assert open_store(StorageSettings(url="memory://")).link("acme/job_1/0.png") is None


@pytest.mark.parametrize("base", ["https://cdn.example/img", "https://cdn.example/img/"])
def test_public_links_are_base_and_quoted_key(base: str) -> None:
    """One slash between, and nothing in a key can end the path."""
    store = open_store(StorageSettings(url="memory://", links="public", public_base_url=base))
    assert store.link("acme/job_1/0.png") == "https://cdn.example/img/acme/job_1/0.png"
    assert store.link("a?b#c d") == "https://cdn.example/img/a%3Fb%23c%20d"


def test_only_s3_presigns() -> None:
    """The others have nobody who would check a signature."""
    with pytest.raises(StorageError, match="presigned links need s3"):
        open_store(StorageSettings(url="memory://")).presign("acme/job_1/0.png", 60)


# --- the budget of bodies in memory -----------------------------------------------------------------------------------


async def test_the_budget_is_never_exceeded_and_nobody_is_forgotten() -> None:
    """Whatever the mix of sizes, what is held at once stays within the limit, and all get their turn."""
    budget, held, peak, done = ByteBudget(100), 0, 0, 0

    async def body(size: int) -> None:
        nonlocal held, peak, done
        async with budget.held(size):
            held += size
            peak = max(peak, held)
            await asyncio.sleep(0)
            held -= size
            done += 1

    await asyncio.gather(*(body(size) for size in [60, 30, 50, 10, 100, 1, 99, 40] * 5))
    assert (peak, done) == (100, 40)


async def test_a_body_larger_than_the_budget_goes_alone() -> None:
    """It must not wait for ever, and nothing else goes along."""
    budget = ByteBudget(100)
    small: asyncio.Task[None]

    async def hold_small() -> None:
        async with budget.held(1):
            pass

    async with budget.held(1000):
        small = asyncio.create_task(hold_small())
        await asyncio.sleep(0.01)
        assert not small.done()
    await small


async def test_a_large_body_is_not_overtaken_for_ever() -> None:
    """Small ones that come later wait behind it."""
    budget, order = ByteBudget(100), list[str]()
    gate = asyncio.Event()

    async def hold(name: str, size: int) -> None:
        async with budget.held(size):
            order.append(name)
            await gate.wait()

    tasks = [asyncio.create_task(hold(*each)) for each in (("first", 60), ("large", 90), ("small", 10))]
    await asyncio.sleep(0.01)
    assert order == ["first"]
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "large", "small"]


async def test_who_gives_up_waiting_leaves_the_budget_as_it_was() -> None:
    """A cancelled put neither keeps bytes nor blocks the next."""
    budget = ByteBudget(100)

    async def hold(size: int) -> None:
        async with budget.held(size):
            pass

    async with budget.held(100):
        waiting = asyncio.create_task(hold(50))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.wait_for(hold(100), 5)
