"""What operators ask of the whole: freeze, pause and resume, the audit. The two edges of it, for the two clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from producers.audits import PAGE, AuditEntry, AuditFilter, next_page, parse_audit
from producers.core import whoami
from producers.freezes import Frozen, freeze_arguments
from producers.looking import Looking
from producers.pauses import (
    JobPause,
    Pause,
    PauseResult,
    batch_arguments,
    batch_result,
    jobs_arguments,
    lane_arguments,
    lanes_of,
    parse_pauses,
    pause_fields,
    scope_result,
    tenant_arguments,
)
from shared.jobs.names import check_name
from shared.redis.scripts import run, run_async

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis as AsyncRedis

    from producers.core import Core
    from producers.hints import Hinter
    from shared.redis.keys import Keys
    from shared.redis.scripts import Argument
    from shared.settings import Settings


class Operating(Looking):
    """The blocking edge, a part of `Darkroom`."""

    _core: Core
    _hints: Hinter

    def _call(self, script: str, arguments: Sequence[Argument]) -> Any:
        with self._state():
            return run(self._client, script, self._keys.prefix, *arguments)

    def _wake(self, paused: bool, dry_run: bool) -> None:
        if not paused and not dry_run:
            self._hints.hint(lanes_of(self.settings))

    def freeze(
        self, what: Frozen | None, *, by: str | None = None, why: str = "", dry_run: bool = False
    ) -> Frozen | None:
        """Stop spending or everything for all workers; None lets them go on. Give what was frozen before."""
        before = self._call("freeze", freeze_arguments(what, by or whoami(), why, dry_run))
        return Frozen(before.decode()) if before else None

    def pause(
        self, lane: str, paused: bool = True, *, by: str | None = None, why: str = "", dry_run: bool = False
    ) -> bool:
        """Pause a lane's submits, or let them go on (`paused=False`). False if it is so already."""
        arguments = lane_arguments(self.settings, lane, paused, by or whoami(), why, dry_run)
        changed = bool(self._call("pause_lane", arguments))
        self._wake(paused, dry_run)
        return changed

    def pause_tenant(
        self, tenant: str, paused: bool = True, *, by: str | None = None, why: str = "", dry_run: bool = False
    ) -> PauseResult:
        """Pause the submits of a tenant's jobs, also of those to come, or let them go on."""
        check_name("tenant", tenant)
        arguments = tenant_arguments(self.settings, tenant, paused, by or whoami(), why, dry_run)
        result = scope_result(self._call("pause_tenant", arguments))
        self._wake(paused, dry_run)
        return result

    def pause_batch(
        self,
        name: str,
        paused: bool = True,
        *,
        tenant: str | None = None,
        by: str | None = None,
        why: str = "",
        dry_run: bool = False,
    ) -> PauseResult:
        """Pause the submits of a batch, or let them go on. Raises BatchNotFound, TransitionRefused if it is complete."""
        owner = self._core.tenant(tenant)
        arguments = batch_arguments(owner, name, paused, by or whoami(), why, dry_run)
        result = batch_result(name, self._call("pause_batch", arguments))
        self._wake(paused, dry_run)
        return result

    def pause_jobs(
        self,
        job_ids: Sequence[str],
        paused: bool = True,
        *,
        by: str | None = None,
        why: str = "",
        words: str = "",
        dry_run: bool = False,
    ) -> list[JobPause]:
        """Pause queued jobs one by one, or let them go on, in one script call: a thousand at most is considerate.

        `words` tell the audit which they are; without, it has the first ids.
        """
        arguments = jobs_arguments(job_ids, paused, by or whoami(), why, words, dry_run)
        results = [JobPause(each) for each in self._call("pause_jobs", arguments)]
        self._wake(paused, dry_run)
        return results


class AsyncOperating:
    """The asyncio edge, a part of `AsyncDarkroom`. Each method is as that of `Operating`."""

    settings: Settings
    _client: AsyncRedis
    _keys: Keys
    _core: Core
    _hints: Hinter

    def _state(self) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    async def _call(self, script: str, arguments: Sequence[Argument]) -> Any:
        async with self._state():
            return await run_async(self._client, script, self._keys.prefix, *arguments)

    def _wake(self, paused: bool, dry_run: bool) -> None:
        if not paused and not dry_run:
            self._hints.hint(lanes_of(self.settings))

    async def freeze(
        self, what: Frozen | None, *, by: str | None = None, why: str = "", dry_run: bool = False
    ) -> Frozen | None:
        before = await self._call("freeze", freeze_arguments(what, by or whoami(), why, dry_run))
        return Frozen(before.decode()) if before else None

    async def pause(
        self, lane: str, paused: bool = True, *, by: str | None = None, why: str = "", dry_run: bool = False
    ) -> bool:
        arguments = lane_arguments(self.settings, lane, paused, by or whoami(), why, dry_run)
        changed = bool(await self._call("pause_lane", arguments))
        self._wake(paused, dry_run)
        return changed

    async def pause_tenant(
        self, tenant: str, paused: bool = True, *, by: str | None = None, why: str = "", dry_run: bool = False
    ) -> PauseResult:
        check_name("tenant", tenant)
        arguments = tenant_arguments(self.settings, tenant, paused, by or whoami(), why, dry_run)
        result = scope_result(await self._call("pause_tenant", arguments))
        self._wake(paused, dry_run)
        return result

    async def pause_batch(
        self,
        name: str,
        paused: bool = True,
        *,
        tenant: str | None = None,
        by: str | None = None,
        why: str = "",
        dry_run: bool = False,
    ) -> PauseResult:
        owner = self._core.tenant(tenant)
        arguments = batch_arguments(owner, name, paused, by or whoami(), why, dry_run)
        result = batch_result(name, await self._call("pause_batch", arguments))
        self._wake(paused, dry_run)
        return result

    async def pause_jobs(
        self,
        job_ids: Sequence[str],
        paused: bool = True,
        *,
        by: str | None = None,
        why: str = "",
        words: str = "",
        dry_run: bool = False,
    ) -> list[JobPause]:
        arguments = jobs_arguments(job_ids, paused, by or whoami(), why, words, dry_run)
        results = [JobPause(each) for each in await self._call("pause_jobs", arguments)]
        self._wake(paused, dry_run)
        return results

    async def pauses_of(self, tenant: str, batch: str | None = None) -> tuple[Pause, ...]:
        fields, client = pause_fields(tenant, batch), self._client
        async with self._state():
            values: Any = await client.hmget(self._keys.paused, fields)
        return parse_pauses(dict(zip((field.encode() for field in fields), values, strict=True)))

    async def audit(
        self,
        limit: int = 1000,
        *,
        since_ms: int | None = None,
        what: str | None = None,
        by: str | None = None,
    ) -> list[AuditEntry]:
        wanted, found, end = AuditFilter(since_ms, what, by), list[AuditEntry](), "+"
        while end and len(found) < limit:
            async with self._state():
                rows: Any = await self._client.xrevrange(self._keys.audit, end, wanted.start, count=PAGE)
            found += filter(wanted.holds, parse_audit(rows))
            end = next_page(rows)
        return found[:limit]
