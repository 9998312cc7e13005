"""The composition root: everything one worker process needs, opened once and closed in reverse order."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from shared.errors import ConfigurationError, DarkroomError, StorageError
from shared.jobs.commands import plan_cancel
from shared.jobs.lifecycle import JobState
from shared.jobs.store import AsyncJobStore
from shared.jobs.transition import AuditNote
from shared.money.caps import claim_caps
from shared.redis.client import make_async_client, make_client
from shared.redis.keys import Keys
from shared.redis.looks import Look
from shared.spool_folder import spool_folder
from shared.storage import open_store
from workers.claims import Claims
from workers.delivery.download import Downloader
from workers.delivery.egress import Egress, EgressPolicy
from workers.delivery.webhook import WebhookSender
from workers.ending import CutOff
from workers.http import make_client as make_http_client
from workers.http import make_submit_client
from workers.installation import Installation
from workers.lanes import Lane
from workers.leases import Leases
from workers.presence import Presence
from workers.providers.gateway import GatewayProvider
from workers.recorder import Recorder
from workers.spool import Spool
from workers.stages.inputs import Inputs
from workers.stages.late_ids import LateIds
from workers.stages.notify import NotifyStage
from workers.stages.poll import PollStage
from workers.stages.runner import StageRunner, Suspects
from workers.stages.stage import Shop
from workers.stages.store import StoreStage
from workers.stages.submit import SubmitStage
from workers.stages.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import AccountSettings, Settings
    from workers.event_loop import EventLoop
    from workers.stages.runner import Stage
    from workers.stages.stage import Events

log = structlog.get_logger(__name__)

JOB_PREFIX: Final = "job_"
CANCEL_WITHIN_S: Final = 10.0
FLOWER: Final = "flower"  # who cancels by its buttons: it tells nobody's name
GC_THRESHOLD: Final = 20_000


def make_lanes(settings: Settings) -> dict[str, Lane]:
    """Build a lane for each model of each account. Raises ConfigurationError for a missing key or price."""
    lanes: dict[str, Lane] = {}
    for name, account in settings.accounts.items():
        provider = _provider(name, account)
        for model in account.models:
            if model not in account.price_micros:
                raise ConfigurationError(
                    f"account {name} serves {model} but has no price for it. Set accounts.{name}.price_micros."
                )
            lane = f"{name}/{model}"
            caps = claim_caps(settings.caps, name, account.currency)
            lanes[lane] = Lane(lane, name, model, account, provider, account.price_micros[model], caps)
    return lanes


def _provider(name: str, account: AccountSettings) -> GatewayProvider:
    return GatewayProvider(str(account.base_url), account.api_key.read(f"API key of account {name}"))


class Runtime:
    """One worker process at work: stages on one event loop, leases on a thread of their own."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        loop: EventLoop,
        events: Events,
        pacemaker_arm: Callable[[str, str, int], None],
    ) -> None:
        self.settings, self.worker, self.events = settings, worker, events
        self.keys = Keys.of(settings.redis.namespace)
        self.lanes = make_lanes(settings)
        self.looks = tuple(
            [Look("submit", lane.name, lane.model) for lane in self.lanes.values()]
            + [Look("poll", lane.name, lane.model) for lane in self.lanes.values()]
            + [Look("store", "", "")] * settings.storage.enabled
            + [Look("notify", "", "")]
        )
        self._loop, self._pacemaker_arm = loop, pacemaker_arm
        hooks = settings.webhooks
        policy = EgressPolicy(allow_private=hooks.allow_private, allow_http=hooks.allow_http)
        # Building one makes an HTTP client: not on the event loop. Two, since who owns a webhook chooses its host, and
        # so how long a look-up takes: images, which are paid for, do not wait for the same threads.
        self._hook_egress, self._result_egress = Egress(policy), Egress(policy)
        self._suspects = Suspects()
        self._lease_client = make_client(settings.redis)
        self.leases = Leases(self._lease_client, self.keys, settings.worker, stuck=loop.is_stuck)
        self._spawned: set[asyncio.Task[None]] = set()
        loop.run(self._open())
        self.leases.start()
        _spare_the_collector()

    async def _open(self) -> None:
        """Open what lives on the event loop."""
        settings = self.settings
        self._client = make_async_client(settings.redis)
        self._store = open_store(settings.storage) if settings.storage.enabled else None
        self._submit_http = make_submit_client(settings.worker.submit_http)
        self._http = make_http_client()
        self._recorder = Recorder(self._client, self.keys, settings.limits)
        self._jobs = AsyncJobStore(self._client, self.keys, settings.limits)
        self._installation = Installation(self._client, self.keys, settings, self.worker, self.lanes.values())
        await self._installation.begin()
        claims = Claims(
            self._client, self.keys, settings.worker, self.worker, lambda: self._installation.mark
        )
        shop = Shop(self._recorder, claims, self.events, self.arm)
        self._spool = Spool(self._spool_folder())
        self._late_ids = LateIds(self._spool, shop, int(settings.worker.generation_max_s * 1000))
        self._sweep = Sweep(self._client, self.keys, self._jobs, settings, shop)
        self._runners = {stage.name: self._runner(stage) for stage in self._stages(shop)}
        self._presence = Presence(
            self._client,
            self.keys,
            self.worker,
            self._store,
            settings.worker,
            stages=self._runners,
            held=self.leases.indexes,
        )
        self._presence.start()
        self._late_ids.start()
        self._installation.start()

    def _spool_folder(self) -> Path | None:
        folder = spool_folder(self.settings.worker)
        return folder and folder / self._installation.mark

    def _stages(self, shop: Shop) -> list[Stage]:
        settings, lanes = self.settings, self.lanes
        stages: list[Stage] = [
            SubmitStage(shop, lanes, self._submit_http, Inputs(self._store), settings, self._spool),
            PollStage(shop, lanes, self._http, settings),
            NotifyStage(
                shop, WebhookSender(self._hook_egress, settings.webhooks.timeout_s), self._store, settings
            ),
        ]
        if self._store is not None:
            downloader = Downloader(
                self._result_egress,
                settings.storage.temp_dir or self._store.staging or Path(tempfile.gettempdir()) / "darkroom",
                settings.storage.max_image_bytes,
                _result_hosts(settings),
            )
            stages.append(StoreStage(shop, lanes, self._http, downloader, self._store, settings))
        return stages

    def _runner(self, stage: Stage) -> StageRunner:
        worker = self.settings.worker
        return StageRunner(
            stage,
            leases=self.leases,
            claim_size=worker.claim_size,
            drain_s=worker.drain_s,
            arm=self.arm,
            suspects=self._suspects,
        )

    def arm(self, stage: str, lane: str, in_ms: int) -> None:
        """Say on the loop that work is due: a running drain hears it, else the pacemaker."""
        runner = self._runners.get(stage)
        if runner is not None and not runner.tell(lane, in_ms):
            self._pacemaker_arm(stage, lane, in_ms)

    def run_stage(self, stage: str, lane: str) -> None:
        """Drain a stage; blocks the calling thread for at most about drain_s."""
        self._loop.run(self._drain(stage, lane))

    def spawn_stage(self, stage: str, lane: str) -> None:
        """Drain a stage, or sweep, without waiting for it."""
        self._loop.spawn(self._drain(stage, lane))

    async def _drain(self, stage: str, lane: str) -> None:
        if stage == "sweep":
            await self._sweep.run()
        elif stage in self._runners:
            await self._client.delete(
                self.keys.hint(stage, lane)
            )  # before it reads: a later hint is not lost
            await self._runners[stage].drain(lane)

    def stop_claims(self) -> None:
        """Take nothing new, at once; safe in a signal handler."""
        self._loop.call_soon(self._stop_claims)

    def _stop_claims(self) -> None:
        for runner in self._runners.values():
            runner.stop_claims()

    def cancel_jobs(self, job_ids: list[str]) -> list[str]:
        """Cancel those that are jobs of ours; give the ids that were. Blocks for at most CANCEL_WITHIN_S."""
        ours = [job_id for job_id in job_ids if job_id.startswith(JOB_PREFIX)]
        cancelled: list[str] = self._loop.run(self._cancel(ours), timeout_s=CANCEL_WITHIN_S)
        return cancelled

    async def _cancel(self, job_ids: list[str]) -> list[str]:
        cancelled = []
        plan = partial(plan_cancel, by=FLOWER, tell=False)
        for job_id in job_ids:
            try:
                job, applied = await self._jobs.change(
                    job_id, plan, AuditNote(FLOWER, "cancel", f"job {job_id}")
                )
            except DarkroomError as error:
                log.warning("cancel_refused", job_id=job_id, cause=type(error).__name__)
            else:
                cancelled.append(job_id)
                if applied is None and job.state is not JobState.CANCELLED:
                    continue  # it had ended already: its row is right as it is
                self.events.emit("revoked", job_id)
                self.arm("notify", "", 0)
        return cancelled

    def close(self) -> None:
        """Finish what may be finished in time, then close everything in reverse order of opening. Raises CutOff."""
        members, transitions = self._loop.run(self._close())
        self.leases.stop()
        self._lease_client.close()
        if members or transitions:
            raise CutOff(members, transitions)

    async def _close(self) -> tuple[int, int]:
        """Give how many members and transitions had to be cut off."""
        worker = self.settings.worker
        grace = {"submit": worker.submit_timeout_s}
        members = await asyncio.gather(
            *(runner.close(grace.get(name, worker.shutdown_s)) for name, runner in self._runners.items())
        )
        # The bound of the whole shutdown is submit_timeout_s + shutdown_s: half is left for what comes after.
        await self._installation.stop()
        await self._late_ids.stop()
        transitions = await self._recorder.close(worker.shutdown_s / 2)
        self._spool.close()
        await self._presence.stop()
        for client in (self._submit_http, self._http, self._hook_egress, self._result_egress):
            await client.aclose()
        await self._client.aclose()
        return sum(members), transitions


def _spare_the_collector() -> None:
    """Keep what lives as long as the process out of every collection, and collect young garbage less often.

    Jobs make many short-lived objects and hardly a cycle; the default threshold of 700 spent 4 % of a busy worker.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def _result_hosts(settings: Settings) -> tuple[str, ...]:
    """Give the hosts that results may come from; empty (any) unless every account names its own."""
    named = [account.result_hosts for account in settings.accounts.values()]
    return tuple(host for hosts in named for host in hosts) if all(named) else ()


def check_store(settings: Settings) -> None:
    """Raise ConfigurationError if the object store cannot be opened: a worker must not find out after paying."""
    if settings.storage.enabled:
        try:
            open_store(settings.storage)
        except StorageError as error:
            raise ConfigurationError(f"{error} Correct DARKROOM_STORAGE__URL.") from error
