"""Plants in every place of a log line that somebody might put a secret or a prompt into: none comes out."""

from __future__ import annotations

import contextvars
import json
import logging
from typing import TYPE_CHECKING, Any, Final

import pydantic
import pytest
import structlog

from shared.errors import StateUnavailable
from shared.settings import (
    AccountSettings,
    BrokerSettings,
    EndpointSettings,
    RedisSettings,
    Settings,
    StorageSettings,
    WebhookSettings,
)
from shared.settings_section import SecretReference
from shared.settings_surface import LogSettings
from workers import logs
from workers.log_context import working_on
from workers.log_redaction import Redaction, secrets_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Log = Callable[[], str]

pytestmark = pytest.mark.usefixtures("logging_restored")

PROMPT: Final = "a kingfisher canary over the river in the light of an early morning in May"
OWN_SECRET: Final = "no-pattern-canary-0815"
PLANTS: Final = {
    "redis": "redis://user:pass-canary@127.0.0.1:6379/1",
    "signed": "https://cdn.example/a/canary.png?Expires=1&Signature=canary",
    "hook": "https://hooks.example/services/T0/B0/canary",
    "fragment": "https://hooks.example#canary",
    "userinfo": "https://canary:canary@hooks.example/",
    "key": "sk-canary-of-the-account",
    "whsec": "whsec_canarycanarycanary=",
    "bearer": "Authorization: Bearer canary-abcdef",
    "json": '{"api_key": "canary"}',
    "named": "password=canary",
    "amazon": "X-Amz-Credential=canary/20261128",
    "own": OWN_SECRET,
    "prompt": PROMPT,
}


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Set up logging as a worker has it; give what reads the log."""
    monkeypatch.setenv("TESTS_SECRET", OWN_SECRET)
    monkeypatch.setattr("sys.argv", ["celery", "worker"])
    webhooks = WebhookSettings(secret=SecretReference(env="TESTS_SECRET"))
    settings = Settings(log=LogSettings(format=request.param, level="DEBUG"), webhooks=webhooks)
    logs.set_up(settings, None, str(tmp_path / "log"))
    return (tmp_path / "log").read_text


ours: Any = structlog.get_logger("workers.stages.submit")
theirs: Final = logging.getLogger("celery.worker.consumer")


@pytest.mark.parametrize("name", list(PLANTS))
def test_no_plant_comes_out_of_a_field(log: Log, name: str) -> None:
    """As a value, inside tables and lists, as an object's text; what stands beside it does."""
    plant = PLANTS[name]
    ours.info(
        "entry_seen", job_id="job_1", detail=plant, inside={"a": [plant, (plant,)]}, thing=Exception(plant)
    )
    text = log()
    assert "canary" not in text
    assert "entry_seen" in text
    assert "job_1" in text


@pytest.mark.parametrize("name", list(PLANTS))
def test_no_plant_comes_out_of_an_exception(log: Log, name: str) -> None:
    """Not of its text, nor of those of its causes and members; its type and frames do."""
    plant = PLANTS[name]

    def fail() -> None:
        try:
            dict[str, str]().pop(plant)
        except KeyError as error:
            group = ExceptionGroup(plant, [OSError(plant), ValueError(plant)])
            raise RuntimeError(plant) from (error if len(plant) % 2 else group)

    for logger in (ours, theirs):
        try:
            fail()
        except RuntimeError:
            logger.exception("entry_fault")
    text = log()
    assert "canary" not in text
    assert text.count("entry_fault") == 2
    assert "RuntimeError" in text
    assert "in fail" in text


@pytest.mark.parametrize("name", list(PLANTS))
def test_no_plant_comes_out_of_a_library_s_message(log: Log, name: str) -> None:
    """As an argument, whatever the template does with it, or quoted in a message that is whole already."""
    plant = PLANTS[name]
    theirs.warning("cannot connect to %s: %r", plant, ConnectionError(plant))
    theirs.warning("unknown message %(body)s", {"body": {"args": [plant]}})
    theirs.error("never retrieved: Task exception=%s", f"ValueError({plant!r})")
    if " " in plant or "://" in plant:
        theirs.error(f"the message was {plant!r}")
    text = log()
    assert "canary" not in text
    assert "cannot connect to" in text
    assert "ConnectionError" in text


def test_arguments_that_do_not_fit_are_left_out() -> None:
    """The message is said without them."""
    line = {"event": "not %d arguments", "positional_args": (PROMPT,)}
    assert Redaction().merged(None, "info", line) == {"event": "not %d arguments"}


def test_what_is_no_secret_stays(log: Log) -> None:
    """Ids, codes, hosts, short remarks, our own errors, and what libraries say of themselves."""
    ours.warning(
        "delivery_unconfigured", event_id="evt_1", error="endpoint ops: no such endpoint. Add it.", n=3
    )
    theirs.warning("consumer: Connection to broker lost. Trying to re-establish the connection...")
    theirs.info("Connected to %s", "redis://127.0.0.1:6379/1")
    away = StateUnavailable("no Redis at 127.0.0.1:6379/0. Start it.")
    ours.error("stage_fault", cause="StateUnavailable", ok=True, none=None, share=0.5, exc_info=away)
    try:
        None.missing  # type: ignore[attr-defined]  # noqa: B018 - the fault is the point
    except AttributeError:
        ours.exception("other_fault")
    text = log()
    for said in (
        "evt_1", "no such endpoint", "Connection to broker lost. Trying to re-establish", "no Redis at 127.0.0.1:6379/0",
        "redis://127.0.0.1:6379/1", "'NoneType' object has no attribute 'missing'", "0.5",
    ):  # fmt: skip
        assert said in text, said


def test_a_validation_error_shows_no_input(log: Log) -> None:
    """Pydantic quotes what it was given."""

    class Model(pydantic.BaseModel):
        n: int

    given = {"n": PROMPT}
    try:
        Model.model_validate(given)
    except pydantic.ValidationError:
        ours.exception("answer_unreadable")
    assert "canary" not in log()
    assert "ValidationError" in log()


def test_ids_of_the_claim_are_in_every_line(log: Log) -> None:
    """Also in those of libraries."""

    def work() -> None:
        working_on("submit", "j", "job_7", 3)
        ours.info("one")
        theirs.warning("two")

    contextvars.copy_context().run(work)
    assert log().count("job_7") == 2


def test_secrets_are_collected_from_everywhere(tmp_path: Path) -> None:
    """URLs' passwords, keys of accounts, endpoints and storage; one that cannot be read is left out."""
    names = [f"canary-{at}-of-the-tests" for at in range(6)]
    for at, name in enumerate(names):
        (tmp_path / str(at)).write_text(name)
    files = [SecretReference(file=tmp_path / str(at)) for at in range(6)]
    settings = Settings(
        redis=RedisSettings(url="redis://:state-canary@h/0"),
        broker=BrokerSettings(url="redis://:broker-canary@h/0"),
        accounts={
            "a": AccountSettings(api_key=files[0]),
            "b": AccountSettings(api_key=SecretReference(env="NONE")),
        },
        webhooks=WebhookSettings(
            secret=files[1], endpoints={"e": EndpointSettings(url="https://e.example", secret=files[2])}
        ),
        storage=StorageSettings(access_key_id=files[3], secret_access_key=files[4], session_token=files[5]),
    )
    secrets = set(secrets_of(settings))
    assert secrets >= {*names, "state-canary", "broker-canary"}
    redaction = Redaction(secrets)
    assert "canary" not in redaction.scrubbed(" ".join(secrets))


def test_lines_stay_valid_json(log: Log) -> None:
    """Whatever was hidden in them."""
    ours.info("entry_seen", detail=list(PLANTS.values()), at={1: object()})
    text = log()
    if text.startswith("{"):
        (line,) = map(json.loads, text.splitlines())
        assert len(line["detail"]) == len(PLANTS)
