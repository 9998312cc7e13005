"""`darkroom dead` and `darkroom redrive --deliveries`: what is dead, why, and webhooks sent again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from producers import Darkroom
from producers.dead import find_dead
from producers.selection import Selection
from producers.webhooks import batch_deliveries, job_deliveries, new_secret
from shared.jobs.lifecycle import DELIVERY_TRANSITIONS, DeliveryState
from shared.jobs.transition import Applied, DeliveryTransition, context_json, transitions_json
from shared.redis.scripts import run
from tests.integration.producers.conftest import FOX
from tests.integration.producers.test_cli import Cli
from tests.integration.producers.test_redrive import fail_copy, lose
from tests.integration.producers.test_webhook_commands import HOOK, settings_for
from tests.servers import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from producers.webhooks import DeliveryStatus
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker


@pytest.fixture
def hooked(state: State, tmp_path: Path) -> State:
    """The state, with a secret for webhooks and an endpoint with a name."""
    hooks = settings_for(tmp_path, new_secret(), shop="https://shop.example/hook")
    return dataclasses.replace(state, settings=state.settings.model_copy(update={"webhooks": hooks}))


@pytest.fixture
def told(hooked: State) -> Iterator[Darkroom]:
    """A client whose jobs may have webhooks."""
    with Darkroom(hooked.settings) as client:
        yield client


@pytest.fixture
def cli(hooked: State, tmp_path: Path) -> Cli:
    """The command with the test's settings."""
    return Cli(tmp_path, environment(hooked.settings))


def end_delivery(state: State, event_id: str, after: DeliveryState, status: str) -> None:
    """Have a worker give the delivery up."""
    assert (DeliveryState.PENDING, after) in DELIVERY_TRANSITIONS
    limits = state.settings.limits
    plan = DeliveryTransition(event_id=event_id, epoch=0, after=after, status=status)
    body = transitions_json([plan], limits.retain_jobs_s * 1000)
    assert run(state.client, "apply_transitions", state.keys.prefix, context_json(limits), body) == [
        Applied.FIRST
    ]


def cancelled(told: Darkroom, webhook: str = HOOK) -> str:
    """Give a job whose event is due."""
    job_id = told.enqueue(FOX, webhook=webhook).job_id
    told.cancel(job_id)
    return job_id


def only(found: list[DeliveryStatus]) -> DeliveryStatus:
    (each,) = found
    return each


def test_dead_jobs_are_listed_with_reason_bill_and_what_a_redrive_would_do(
    cli: Cli, hooked: State, told: Darkroom, worker: FakeWorker
) -> None:
    """Counts by reason first, then the latest; no URL is shown, whatever the provider said."""
    told.enqueue_many([FOX] * 4, batch="b")
    refused, lost, copy, _ = worker.claim(4)
    worker.fail(refused)
    said = "see https://p.test/x?token=canary for more"
    hooked.client.hset(hooked.keys.detail(refused), "error_message", said)
    hooked.client.pexpire(hooked.keys.detail(refused), 60_000)
    lose(worker, hooked, lost)
    fail_copy(worker, copy)
    shown = cli.run("dead", "--batch", "b")
    assert shown.returncode == 0
    assert "canary" not in shown.stdout
    assert "see (URL) for more" in shown.stdout
    found = cli.json("dead", "--only", "jobs")
    assert [(each["code"], each["billed"], each["redrive"], each["jobs"]) for each in found["job_counts"]] == [
        ("copy_failed", "yes", "copy", 1), ("lost", "yes", "pay_again", 1), ("refused", "no", "submit", 1),
    ]  # fmt: skip
    by_id = {each["job_id"]: each for each in found["jobs"]}
    assert (by_id[lost]["cost_micros"], by_id[lost]["currency"], by_id[lost]["batch"]) == (
        200_000,
        "CNY",
        "b",
    )
    assert len(cli.json("dead", "--limit", "1")["jobs"]) == 1
    assert set(by_id) == {refused, lost, copy}
    assert [job.job_id for job in find_dead(hooked.settings, Selection(codes=frozenset({"lost"}))).jobs] == [
        lost
    ]


def test_nothing_dead_is_said(cli: Cli, told: Darkroom) -> None:
    """A queued job is not dead; an id without a record is named."""
    told.enqueue(FOX)
    assert cli.run("dead").stdout == "nothing is dead\n"
    gone = cli.run("dead", "job_none")
    assert gone.returncode == 1
    assert "job_none: no such job" in gone.stderr
    assert cli.run("dead", "--only", "pets").returncode == 2


def test_dead_deliveries_are_listed_by_host(cli: Cli, hooked: State, told: Darkroom) -> None:
    """Exhausted and disabled ones with the last answer; a named endpoint by the host of its URL; no URL."""
    first, second, pending = cancelled(told), cancelled(told, "shop"), cancelled(told)
    one = only(job_deliveries(hooked.settings, first)).event_id
    two = only(job_deliveries(hooked.settings, second)).event_id
    end_delivery(hooked, one, DeliveryState.EXHAUSTED, "status_503")
    end_delivery(hooked, two, DeliveryState.DISABLED, "gone")
    found = cli.json("dead")
    assert found["delivery_counts"] == [
        {"state": "disabled", "last_status": "gone", "deliveries": 1},
        {"state": "exhausted", "last_status": "status_503", "deliveries": 1},
    ]
    assert {(each["event_id"], each["endpoint"], each["job"]) for each in found["deliveries"]} == {
        (one, "consumer.example", first), (two, "shop.example", second),
    }  # fmt: skip
    shown = cli.run("dead", "--endpoint", "consumer.example").stdout
    assert (one in shown, two in shown, "https://" in shown) == (True, False, False)
    assert two in cli.run("dead", "--endpoint", "shop").stdout
    assert only(job_deliveries(hooked.settings, pending)).state == "pending"


def test_dead_deliveries_are_sent_again_under_their_ids(cli: Cli, hooked: State, told: Darkroom) -> None:
    """Pending, due at once, the schedule from its begin, kept until its new end; by endpoint; audited."""
    job_id, other = cancelled(told), cancelled(told, "shop")
    before = only(job_deliveries(hooked.settings, job_id))
    end_delivery(hooked, before.event_id, DeliveryState.EXHAUSTED, "status_503")
    end_delivery(
        hooked, only(job_deliveries(hooked.settings, other)).event_id, DeliveryState.DISABLED, "gone"
    )
    dry = cli.run("redrive", "--deliveries", "--endpoint", "consumer.example", "--dry-run")
    assert dry.stdout.startswith("1 deliveries would be redriven, 0 refused.\n1 exhausted: status_503")
    assert only(job_deliveries(hooked.settings, job_id)).state == "exhausted"
    done = cli.json(
        "redrive", "--deliveries", "--endpoint", "consumer.example", "--as", "anna", "--why", "up"
    )
    assert [each["event_id"] for each in done["deliveries"]] == [before.event_id]
    after = only(job_deliveries(hooked.settings, job_id))
    assert (after.event_id, after.state, after.attempts, after.ended_at) == (
        before.event_id,
        "pending",
        0,
        None,
    )
    assert after.next_at is not None
    assert hooked.client.pttl(hooked.keys.delivery(after.event_id)) == -1
    assert only(job_deliveries(hooked.settings, other)).state == "disabled"
    told_of = [(entry.who, entry.what, entry.on, entry.why) for entry in told.audit(what="redrive")]
    assert told_of == [("anna", "redrive", "1 deliveries: endpoint consumer.example", "up")]
    assert cli.json("redrive", other, "--deliveries")["redriven"] == 1


def test_a_batchs_own_event_is_sent_again(cli: Cli, hooked: State, told: Darkroom) -> None:
    """With the batch, its completion event and those of its jobs."""
    receipt = told.enqueue_many([FOX], batch="b", webhook=HOOK)
    job_id = str(receipt.items[0].job_id)
    told.cancel(job_id)
    tenant = hooked.settings.tenant
    own = only(batch_deliveries(hooked.settings, "b", tenant)).event_id
    for event_id in (own, only(job_deliveries(hooked.settings, job_id)).event_id):
        end_delivery(hooked, event_id, DeliveryState.EXHAUSTED, "timeout")
    assert cli.json("redrive", "--deliveries", "--batch", "b")["redriven"] == 2
    assert only(batch_deliveries(hooked.settings, "b", tenant)).state == "pending"


def test_a_delivery_without_its_job_is_refused(cli: Cli, hooked: State, told: Darkroom) -> None:
    """There is nothing to tell any more; and the words of the command are judged."""
    job_id = cancelled(told)
    end_delivery(
        hooked, only(job_deliveries(hooked.settings, job_id)).event_id, DeliveryState.EXHAUSTED, "timeout"
    )
    hooked.client.delete(hooked.keys.job(job_id))
    done = cli.run("redrive", "--deliveries", "--tenant", hooked.settings.tenant)
    assert done.returncode == 1
    assert "0 deliveries redriven, 1 refused.\n1 exhausted: timeout: the record of its job" in done.stdout
    nothing = cli.run("redrive", "--deliveries")
    assert nothing.returncode == 2
    assert "no delivery is selected" in nothing.stderr
    assert cli.run("redrive", "--endpoint", "a.example", "--tenant", "t").returncode == 2
    assert cli.run("redrive", "--deliveries", "--pay-again", "--tenant", "t").returncode == 2
