"""Pausing by hand: a lane, a tenant, a batch, or single jobs. Submits wait; what has an intent is finished and told.

Apart from a block, which the provider causes. Each holds by itself: a job is submitted when nothing holds it any more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from producers.cancels import which_jobs
from producers.freezes import check_why
from shared.errors import BatchNotFound, InvalidRequest, Issue, TransitionRefused
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.redis.scripts import Argument
    from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of a tenant, or of one of its batches: since `at_ms` of the state server (unix ms), by whom, and why."""

    tenant: str
    batch: str | None
    by: str
    at_ms: int
    why: str

    @property
    def name(self) -> str:
        return f"tenant {self.tenant}" if self.batch is None else f"batch {self.batch} of {self.tenant}"

    @property
    def resume(self) -> str:
        """The command that ends it."""
        batch = "" if self.batch is None else f" --batch {self.batch}"
        return f"darkroom resume{batch} --tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class PauseResult:
    """Whether it changed anything, and how many queued jobs wait for it."""

    changed: bool
    waiting: int


class JobPause(IntEnum):
    """What became of pausing or resuming one job."""

    CHANGED = 1
    ALREADY = 0
    MISSING = -1
    NOT_QUEUED = -2


def lanes_of(settings: Settings) -> list[str]:
    """Give all lanes there are, by name."""
    return sorted(
        f"{name}/{model}" for name, account in settings.accounts.items() for model in account.models
    )


def lane_arguments(
    settings: Settings, lane: str, paused: bool, by: str, why: str, dry_run: bool
) -> tuple[str, int, str, str, int]:
    """Give the arguments of pause_lane.lua. Raises InvalidRequest (no such lane, a long reason)."""
    lanes = lanes_of(settings)
    if lane not in lanes:
        rule = f"lane must be one of {', '.join(lanes)}"
        raise InvalidRequest((Issue("lane", "choice", rule, lane),))
    check_why(why)
    return lane, int(paused), by, why, int(dry_run)


def tenant_arguments(
    settings: Settings, tenant: str, paused: bool, by: str, why: str, dry_run: bool
) -> tuple[Argument, ...]:
    """Give the arguments of pause_tenant.lua. Raises InvalidRequest (a long reason)."""
    check_why(why)
    return (tenant, int(paused), by, why, int(dry_run), JobState.QUEUED, *sorted(settings.models))


def batch_arguments(
    tenant: str, name: str, paused: bool, by: str, why: str, dry_run: bool
) -> tuple[Argument, ...]:
    """Give the arguments of pause_batch.lua. Raises InvalidRequest (a long reason)."""
    check_why(why)
    return (tenant, name, int(paused), by, why, int(dry_run), JobState.QUEUED)


def jobs_arguments(
    job_ids: Sequence[str], paused: bool, by: str, why: str, words: str, dry_run: bool
) -> tuple[Argument, ...]:
    """Give the arguments of pause_jobs.lua; `words` say in the audit which jobs. Raises InvalidRequest."""
    check_why(why)
    return (int(paused), by, why, int(dry_run), JobState.QUEUED, which_jobs(job_ids, words), *job_ids)


def scope_result(reply: Sequence[int]) -> PauseResult:
    """Read the answer for a tenant."""
    return PauseResult(bool(reply[0]), reply[1])


def batch_result(name: str, reply: Sequence[int]) -> PauseResult:
    """Read the answer for a batch. Raises BatchNotFound, TransitionRefused."""
    match reply[0]:
        case -1:
            raise BatchNotFound(name)
        case -2:
            raise TransitionRefused(f"batch {name} is complete: none of its jobs waits. Nothing was paused.")
        case _:
            return scope_result(reply)


def pause_fields(tenant: str, batch: str | None) -> list[str]:
    """Name the fields of `Keys.paused` that hold a job of that tenant and batch."""
    return [f"t|{tenant}", *([] if batch is None else [f"b|{tenant}|{batch}"])]


def parse_pauses(record: Mapping[bytes, bytes | None]) -> tuple[Pause, ...]:
    """Read fields of `Keys.paused`, the oldest pause first."""
    found = (_pause(name.decode(), value) for name, value in record.items() if value is not None)
    return tuple(sorted(found, key=lambda pause: (pause.at_ms, pause.name)))


def _pause(field: str, value: bytes) -> Pause:
    _, tenant, *batch = field.split("|", 2)
    told: Any = json.loads(value)
    return Pause(tenant, batch[0] if batch else None, told["by"], told["at"], told["why"])
