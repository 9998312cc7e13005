"""`darkroom webhook`: secrets that work, deliveries as they stand, and a test event on a real connection."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import httpx
import pytest

from producers import Darkroom
from producers.webhooks import batch_deliveries, job_deliveries, new_secret, send_test
from shared.errors import BatchNotFound, ConfigurationError, InvalidRequest, JobNotFound
from shared.settings import EndpointSettings, Settings, WebhookSettings
from shared.settings_section import SecretReference
from shared.webhooks.signature import SECRET_BYTES, decode_secret
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_cli import Cli
from tests.servers import SinkProc, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import State

HOOK = "https://consumer.example/hooks"


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkProc]:
    """Give a consumer that verifies."""
    with SinkProc(tmp_path_factory.mktemp("sink")) as proc:
        yield proc


def settings_for(folder: Path, secret: str, **endpoints: str) -> WebhookSettings:
    (folder / "secret").write_text(secret)
    reference = SecretReference(file=folder / "secret")
    return WebhookSettings.model_validate(
        {
            "secret": reference, "allow_http": True, "allow_private": True,
            "endpoints": {
                name: EndpointSettings.model_validate({"url": url, "secret": reference})
                for name, url in endpoints.items()
            },
        }
    )  # fmt: skip


def test_a_new_secret_is_one_that_signs() -> None:
    """It is as long as the standard advises, and another each time."""
    made = {new_secret() for _ in range(20)}
    assert len(made) == 20
    assert all(len(decode_secret(each)) in SECRET_BYTES for each in made)


def test_a_test_event_is_verified_by_the_consumer(sink: SinkProc, tmp_path: Path) -> None:
    """To a URL, and to an endpoint by its name; the answer is reported."""
    sink.post("/ok", {})  # the sink counts what is not signed, too
    before = sink.get("/summary")["verified"]
    settings = Settings(webhooks=settings_for(tmp_path, sink.secret, shop=f"{sink.url}/status/503"))
    well, named = send_test(settings, f"{sink.url}/ok"), send_test(settings, "shop")
    assert (well.status, well.acknowledged, well.trouble) == (200, True, None)
    assert (named.status, named.acknowledged) == (503, False)
    assert sink.get("/summary")["verified"] == before + 2
    ids = {each["webhook_id"]: each for each in sink.get("/received")["deliveries"]}
    assert ids[well.event_id]["body"]["type"] == "test"
    assert ids[named.event_id]["verified"]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (httpx.ConnectError("secret-token"), "no connection"),
        (httpx.ReadTimeout("secret-token"), "no answer in time"),
        (httpx.ReadError("secret-token"), "the connection broke"),
    ],
)
def test_trouble_is_a_word_without_the_url(error: httpx.HTTPError, word: str, tmp_path: Path) -> None:
    """A URL may hold the consumer's own token, so no error's text is passed on."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    settings = Settings(webhooks=settings_for(tmp_path, new_secret()))
    answer = send_test(settings, f"{HOOK}?token=secret-token", httpx.MockTransport(fail))
    assert (answer.trouble, answer.acknowledged) == (word, False)
    assert "secret-token" not in repr(answer)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """As workers do not: it is no acknowledgement."""
    asked = []

    def redirect(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"location": "https://elsewhere.example/"})

    settings = Settings(webhooks=settings_for(tmp_path, new_secret()))
    answer = send_test(settings, HOOK, httpx.MockTransport(redirect))
    assert (answer.status, answer.acknowledged, asked) == (307, False, [HOOK])


def test_what_no_job_could_have_is_not_sent_to(tmp_path: Path) -> None:
    """A name that is not configured, or a URL without a secret."""
    settings = Settings(webhooks=settings_for(tmp_path, new_secret()))
    with pytest.raises(InvalidRequest, match="configured endpoint"):
        send_test(settings, "shop")
    with pytest.raises(InvalidRequest, match=r"webhooks\.secret"):
        send_test(Settings(webhooks=WebhookSettings()), HOOK)
    (tmp_path / "secret").write_text("not one")
    with pytest.raises(ConfigurationError, match="whsec_"):
        send_test(settings, HOOK)


# --- deliveries -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hooked(state: State, tmp_path: Path) -> State:
    """The state, with a secret for webhooks."""
    hooks = settings_for(tmp_path, new_secret())
    return dataclasses.replace(state, settings=state.settings.model_copy(update={"webhooks": hooks}))


@pytest.fixture
def told(hooked: State) -> Iterator[Darkroom]:
    """A client whose jobs may have webhooks."""
    with Darkroom(hooked.settings) as client:
        yield client


def test_deliveries_of_a_job_are_shown(hooked: State, told: Darkroom) -> None:
    """One per event so far, pending and due at once; none before anything happened."""
    receipt = told.enqueue(FOX, webhook=HOOK)
    assert job_deliveries(hooked.settings, receipt.job_id) == []
    told.cancel(receipt.job_id)
    (delivery,) = job_deliveries(hooked.settings, receipt.job_id)
    assert (delivery.event, delivery.state, delivery.attempts) == ("image.cancelled", "pending", 0)
    assert delivery.event_id == f"evt_{receipt.job_id.removeprefix('job_')}_1"
    assert delivery.next_at == delivery.created_at
    assert (delivery.tried_at, delivery.ended_at, delivery.last_status) == (None, None, "")


def test_deliveries_of_a_batch_are_its_own(hooked: State, told: Darkroom) -> None:
    """Found by the id that the script gives them, and not those of its jobs."""
    receipt = told.enqueue_many([FOX], batch="foxes", webhook=HOOK)
    tenant = hooked.settings.tenant
    assert batch_deliveries(hooked.settings, "foxes", tenant) == []
    told.cancel(receipt.items[0].job_id or "")
    (delivery,) = batch_deliveries(hooked.settings, "foxes", tenant)
    assert (delivery.event, delivery.state) == ("batch.completed", "pending")


def test_what_is_not_there_is_said(hooked: State) -> None:
    """No such job, no such batch: not an empty list."""
    with pytest.raises(JobNotFound):
        job_deliveries(hooked.settings, "job_nowhere")
    with pytest.raises(BatchNotFound):
        batch_deliveries(hooked.settings, "nowhere", "default")


@pytest.fixture
def cli(hooked: State, tmp_path: Path) -> Cli:
    """The command with the test's settings."""
    return Cli(tmp_path, environment(hooked.settings))


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_makes_secrets_and_tests_endpoints(cli: Cli, sink: SinkProc, tmp_path: Path) -> None:
    """Exit 0 for an acknowledged event, 1 for one that was not, 2 for an endpoint that cannot be."""
    made = cli.run("webhook", "secret")
    assert decode_secret(made.stdout)
    hooks = settings_for(tmp_path, sink.secret).model_dump_json()
    well = cli.run("webhook", "test", f"{sink.url}/ok", DARKROOM_WEBHOOKS=hooks)
    assert (well.returncode, well.stderr) == (0, "")
    assert "answered 200, acknowledged" in well.stdout
    gone = cli.run("webhook", "test", f"{sink.url}/gone", "--json", DARKROOM_WEBHOOKS=hooks)
    assert gone.returncode == 1
    assert '"status": 410' in gone.stdout
    unknown = cli.run("webhook", "test", "shop", DARKROOM_WEBHOOKS=hooks)
    assert unknown.returncode == 2
    assert "configured endpoint" in unknown.stderr


def test_the_command_shows_deliveries(cli: Cli, hooked: State, told: Darkroom) -> None:
    """As a table or JSON; a job without webhook has none, and one argument is needed."""
    silent, hooking = told.enqueue(FOX), told.enqueue(FOX, webhook=HOOK)
    told.cancel(hooking.job_id)
    assert "no deliveries" in cli.run("webhook", "deliveries", silent.job_id).stdout
    table = cli.run("webhook", "deliveries", hooking.job_id).stdout
    assert "image.cancelled" in table
    assert "pending" in table
    (shown,) = cli.json("webhook", "deliveries", hooking.job_id)["deliveries"]
    assert shown == dataclasses.asdict(job_deliveries(hooked.settings, hooking.job_id)[0])
    assert cli.run("webhook", "deliveries", "job_nowhere").returncode == 1
    assert cli.run("webhook", "deliveries").returncode == 2
