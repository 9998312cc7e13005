"""What `darkroom doctor` makes of facts: each fault has a finding that names it and says what to do."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from producers.doctor.configuration import COMPOSE, judge_settings, judge_sources
from producers.doctor.credentials import look_at_secrets
from producers.doctor.reach import reach
from producers.doctor.state import StateFacts, judge_state
from producers.doctor.work import judge_endpoints, judge_stores, judge_versions, judge_work
from producers.freezes import Freeze
from producers.overview import LaneStatus, Overview
from producers.parties import EndpointUse, WorkerUse
from producers.store_trouble import StoreTrouble
from shared.jobs.lifecycle import JobState
from shared.settings import AccountSettings, Settings, StorageSettings, WebhookSettings, WorkerSettings
from shared.settings_section import SecretReference
from tests.process import HOST, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from producers.doctor.findings import Finding

GOOD_INFO: dict[str, Any] = {
    "redis_version": "7.2.4", "role": "master", "aof_enabled": 1, "maxmemory_policy": "noeviction",
    "used_memory": 100_000_000, "maxmemory": 1_000_000_000, "total_system_memory": 8_000_000_000,
}  # fmt: skip
GOOD_CONFIG = {"appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
GOOD = StateFacts(GOOD_INFO, GOOD_CONFIG, skew_ms=3, latency_ms=0.2)
NOW_MS = 1_700_000_000_000


def troubles(found: Iterable[Finding]) -> list[Finding]:
    """Give what is not ok; each must say what to do, as a sentence."""
    rest = [each for each in found if each.level != "ok"]
    for each in rest:
        assert re.search(r"[.?]$", each.do), each
    return rest


def trouble(found: Iterable[Finding]) -> Finding:
    """Give the one finding that is not ok."""
    (only,) = troubles(found)
    return only


# --- the state server


def test_a_good_server_has_only_good_findings() -> None:
    """Version, policy, persistence, memory, clock and latency, each with what was found."""
    found = list(judge_state(GOOD, strict=False))
    assert troubles(found) == []
    text = "\n".join(each.what for each in found)
    for part in (
        "Redis 7.2.4",
        "noeviction",
        "appendfsync everysec",
        "10 % of maxmemory",
        "clock agrees",
        "0.2 ms",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("info", "config", "level", "what", "do"),
    [
        ({"redis_version": "6.2.1"}, {}, "error", "too old", "Use Redis 7.0"),
        ({"role": "slave"}, {}, "error", "a replica", "primary"),
        ({}, {"maxmemory-policy": "allkeys-lru"}, "error", "evicts keys (maxmemory-policy allkeys-lru)", "noeviction"),
        ({"aof_enabled": 0}, {}, "error", "a crash loses every job", "appendonly yes"),
        ({"aof_enabled": 0}, {"save": "60 1"}, "error", "since the last snapshot", "appendonly yes"),
        ({}, {"appendfsync": "no"}, "error", "half a minute of jobs", "appendfsync everysec"),
        ({"aof_last_write_status": "err"}, {}, "error", "last write of its append-only file failed", "disk is full"),
        ({"aof_last_bgrewrite_status": "err"}, {}, "error", "last rewrite", "disk is full"),
        ({"rdb_last_bgsave_status": "err"}, {}, "error", "last snapshot failed", "disk is full"),
        ({"used_memory": 800_000_000}, {}, "warning", "80 % of maxmemory", "more memory"),
        (
            {"maxmemory": 0, "used_memory": 7_000_000_000}, {}, "warning", "87 % of the machine's memory",
            "more memory",
        ),
    ],
)  # fmt: skip
def test_each_fault_of_the_server_is_named(
    info: dict[str, Any], config: dict[str, str], level: str, what: str, do: str
) -> None:
    """One fault, one finding; an error is what loses jobs or stops them."""
    facts = replace(GOOD, info=GOOD_INFO | info, config=GOOD_CONFIG | config)
    found = trouble(judge_state(facts, strict=False))
    assert (found.area, found.level) == ("state", level)
    assert what in found.what
    assert do in found.do


def test_strict_durability_demands_always() -> None:
    """Clients and workers refuse to start otherwise, so it is an error."""
    assert "refuse to start" in trouble(judge_state(GOOD, strict=True)).what
    always = replace(GOOD, config=GOOD_CONFIG | {"appendfsync": "always"})
    assert troubles(judge_state(always, strict=True)) == []


def test_a_server_that_hides_its_configuration_is_not_called_bad() -> None:
    """What INFO tells is judged; what nobody can read is a warning."""
    hidden = replace(GOOD, config=None, info={**GOOD_INFO, "maxmemory_policy": None})
    found = troubles(judge_state(hidden, strict=False))
    assert {each.level for each in found} == {"warning"}
    assert len(found) == 2


@pytest.mark.parametrize(("skew_ms", "word"), [(2500, "ahead of"), (-2500, "behind")])
def test_a_clock_that_is_off_is_named(skew_ms: float, word: str) -> None:
    """With its direction, since somebody has to set it."""
    found = trouble(judge_state(replace(GOOD, skew_ms=skew_ms), strict=False))
    assert f"2.5 s {word} this machine's" in found.what
    assert "NTP" in found.do


def test_a_far_server_is_named() -> None:
    """Every step of a job asks it."""
    assert "50.0 ms" in trouble(judge_state(replace(GOOD, latency_ms=50), strict=False)).what


# --- settings and secrets


def test_empty_unknown_and_outranked_variables_are_named() -> None:
    """The likely name is offered; a variable that outranks the file is said to."""
    environment = {
        "DARKROOM_TENANT": "", "DARKROOM_ACOUNTS__MAIN__MODELS": "[]", "DARKROOM_REDIS__URL": "redis://a/0",
        "DARKROOM_REDIS_URL": "redis://c/0", "DARKROOM_WORKER_SHUTDOWN_S": "5", "PATH": "/bin",
    }  # fmt: skip
    found = troubles(judge_sources(Settings(), environment, {"redis": {"url": "redis://b/0"}}, {}))
    assert [each.what for each in found] == [
        "DARKROOM_TENANT is set, and empty",
        "DARKROOM_ACOUNTS__MAIN__MODELS is no setting, and is not looked at",
        "DARKROOM_REDIS_URL is no setting, and is not looked at",
        "DARKROOM_WORKER_SHUTDOWN_S is no setting, and is not looked at",
        "DARKROOM_REDIS__URL outranks redis.url of darkroom.toml",
    ]
    assert [each.do for each in found[1:4]] == [
        "Did you mean DARKROOM_ACCOUNTS__MAIN__MODELS?",
        "Did you mean DARKROOM_REDIS__URL?",  # one underscore too few is the commonest typo of all
        "Did you mean DARKROOM_WORKER__SHUTDOWN_S?",
    ]


def test_variables_of_the_compose_file_are_known() -> None:
    """They stand in the same .env as settings: a container must not call them mistakes."""
    text = (ROOT / "docker-compose.yml").read_text()
    read = {name.lower() for name in re.findall(r"\$\{DARKROOM_([A-Z0-9]+(?:_[A-Z0-9]+)*)[:}]", text)}
    assert {name for name in read if "__" not in name} - COMPOSE == {"flower_auth"}
    assert COMPOSE - read == set()
    named = {f"DARKROOM_{name.upper()}": "x" for name in COMPOSE}
    assert troubles(judge_sources(Settings(), named, {}, {})) == []


def settings_with(**sections: Any) -> Settings:
    return Settings().model_copy(update=sections)


@pytest.mark.parametrize(
    ("settings", "level", "what"),
    [
        (
            settings_with(accounts={"main": AccountSettings(models=("m",), price_micros={})}), "error",
            "account main serves m and has no price",
        ),
        (settings_with(worker=WorkerSettings(lease_s=6, renew_s=4)), "warning", "lost with one late renewal"),
        (settings_with(storage=StorageSettings(url="off")), "warning", "storage is off"),
        (settings_with(webhooks=WebhookSettings(allow_private=True)), "warning", "reach private addresses"),
    ],
)  # fmt: skip
def test_settings_that_do_not_serve_together_are_named(settings: Settings, level: str, what: str) -> None:
    """What is refused is an error, what is unwise a warning."""
    found = trouble(judge_settings(settings))
    assert (found.level, what in found.what) == (level, True)


def secret_settings(reference: SecretReference) -> Settings:
    account = AccountSettings(api_key=reference)
    return settings_with(accounts={"main": account}, storage=StorageSettings(url="off"))


def test_a_secret_that_is_not_there_is_named_by_its_place(tmp_path: Path) -> None:
    """Neither file nor variable; what to do says where it belongs."""
    missing = secret_settings(SecretReference(file=tmp_path / "key"))
    found = trouble(look_at_secrets(missing, producer_only=False))
    assert f"cannot read file {tmp_path / 'key'}" in found.what
    unset = secret_settings(SecretReference(env="DARKROOM_NO_SUCH_KEY"))
    assert "DARKROOM_NO_SUCH_KEY is empty" in trouble(look_at_secrets(unset, producer_only=False)).what
    assert list(look_at_secrets(unset, producer_only=True)) == []


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        (b"canary-key\x07more", 0o600, "unprintable characters"),
        (b"\xff\xfe\x00", 0o600, "is not text"),
        (b"canary-key", 0o644, "can be read by others (mode 0644)"),
        (b"\n", 0o600, "is empty"),
    ],
)  # fmt: skip
def test_a_secret_that_will_not_serve_is_never_shown(
    tmp_path: Path, content: bytes, mode: int, what: str
) -> None:
    """Only its place and what is wrong with it."""
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(mode)
    found = list(look_at_secrets(secret_settings(SecretReference(file=file)), producer_only=False))
    assert what in trouble(found).what
    assert "canary-key" not in str(found)


def test_a_malformed_webhook_secret_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would sign nothing; the command that makes one is offered."""
    monkeypatch.setenv("DARKROOM_TEST_HOOK", "not-a-secret-canary")
    monkeypatch.setenv("DARKROOM_API_KEY", "k")
    hooks = WebhookSettings(secret=SecretReference(env="DARKROOM_TEST_HOOK"))
    found = trouble(look_at_secrets(settings_with(webhooks=hooks), producer_only=False))
    assert found.what.startswith("webhooks.secret: ")
    assert "darkroom webhook secret" in found.do
    assert "canary" not in str(found)


# --- what can be reached


def test_a_listening_host_is_reached_and_told_private() -> None:
    """Loopback is not a public address."""
    with socket.create_server((HOST, 0)) as server:
        found = reach(f"http://{HOST}:{server.getsockname()[1]}/v1")
    assert (found.trouble, found.private) == ("", True)


def test_what_cannot_be_reached_says_why() -> None:
    """A closed port, a name that does not resolve, one that answers no TLS."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    assert reach(f"http://{HOST}:{port}").trouble == "connection refused"
    assert reach("https://no-such-host.invalid").trouble == "its name does not resolve"
    with socket.create_server((HOST, 0)) as silent:
        found = reach(f"https://{HOST}:{silent.getsockname()[1]}", within_s=0.3)
    assert found.trouble == "it does not answer within 0.3 s"


# --- the work


def lane(**facts: Any) -> LaneStatus:
    return LaneStatus("main/m", 0, 0, 0, 0, 0, facts.pop("ambiguous", 0), 5, **facts)


def overview(*lanes: LaneStatus, workers: int = 1, queued: int = 0, **facts: Any) -> Overview:
    counts: dict[str, int] = {state.value: 0 for state in JobState} | {"queued": queued}
    given = {"unknown": 0, "orphans": 0, "frozen": None, **facts}
    names = tuple(f"w{number}" for number in range(workers))
    found = Overview(NOW_MS, counts, lanes, names, given["unknown"], 0, 0, given["orphans"], given["frozen"])
    return replace(found, store_trouble=given.get("store_trouble"))


@pytest.mark.parametrize(
    ("found", "level", "what"),
    [
        (overview(workers=0), "warning", "no worker is alive"),
        (overview(workers=0, queued=3), "error", "3 jobs queued, and no worker is alive"),
        (overview(frozen=Freeze("spending", "ops", NOW_MS, "bill")), "warning", "spending is frozen (bill)"),
        (
            overview(store_trouble=StoreTrouble("full", NOW_MS)),
            "error",
            "the object store is full: submits wait",
        ),
        (overview(unknown=2), "warning", "2 jobs have an unknown outcome"),
        (overview(orphans=1), "warning", "1 generations of the provider belong to no job"),
        (overview(lane(blocked="invalid_api_key")), "error", "lane main/m is blocked (invalid_api_key)"),
        (overview(lane(paused_at=NOW_MS, paused_by="ops")), "warning", "lane main/m is paused by ops"),
        (overview(lane(ambiguous=5)), "warning", "5 submits in a row had an unknown outcome"),
    ],
)
def test_what_holds_the_work_up_is_named(found: Overview, level: str, what: str) -> None:
    """Workers, freezes, lanes, unknown outcomes, orphans."""
    only = trouble(judge_work(found))
    assert (only.level, what in only.what) == (level, True)


def test_a_throttled_lane_is_as_it_should_be() -> None:
    """The provider's quota is no fault."""
    closed = overview(lane(closed_until=NOW_MS + 5000))
    found = list(judge_work(closed))
    assert troubles(found) == []
    assert "waits for the provider's quota" in found[-1].what


def test_stores_that_are_not_one_are_an_error() -> None:
    """Another identity, none yet, nobody to ask; the same one is good."""
    assert "uses another store" in trouble(judge_stores("a", {"w1": "b"})).what
    assert trouble(judge_stores("a", {"w1": None})).level == "warning"
    assert "no worker is alive" in trouble(judge_stores("a", {})).what
    assert troubles(judge_stores("a", {"w1": "a", "w2": "a"})) == []
    assert list(judge_stores(None, {"w1": "b"})) == []


def test_workers_of_several_versions_are_named() -> None:
    """One that says none is an older one of its own; it is not guessed at."""
    old, new = WorkerUse("w1", 0, version="0.1"), WorkerUse("w2", 0, version="0.2")
    assert "workers of 2 versions run: 0.1, 0.2" in trouble(judge_versions([old, new])).what
    assert list(judge_versions([new, new, WorkerUse("w3", 0)])) == []


def test_endpoints_that_fail_are_named_with_the_reason() -> None:
    """Where deliveries only wait for their turn nothing is wrong."""
    failing = EndpointUse("hooks.test", 9, 4, 60_000, "status_500", 3)
    (found,) = troubles(judge_endpoints([failing, EndpointUse("busy.test", 5)]))
    assert found.what == "4 deliveries to hooks.test failed (the oldest: status_500 after 3 tries)"
    assert found.level == "warning"
