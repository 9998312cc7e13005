"""The store stage: copy every image before the provider's URLs die, check it, record it, then complete the job.

1. Each image without a recorded artifact is downloaded to a temporary file, hashed and sniffed on the way.
2. It is put create-only under `{tenant}/{job_id}/{index}.{ext}`; the same content there already is success.
3. All there: completed. Some not: what is there is recorded, and the job comes back after a backoff.
4. The URLs died first: failed(copy_failed), billed; URLs and generation id are kept for a redrive.
"""

from __future__ import annotations

import asyncio
import random
import time
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic_core import from_json, to_json

from shared.errors import StorageConflict, StorageError
from shared.jobs.lifecycle import JobState
from shared.jobs.transition import LEASE_FIELDS, Applied, Change, Transition
from shared.retry import backoff_s
from shared.storage import artifact_key
from workers import crash_points, metrics
from workers.claims import STORE_PROBE_MS
from workers.delivery.download import LOCAL_DISK, Downloaded, DownloadFailure, DownloadTrouble
from workers.providers.outcomes import Succeeded
from workers.stages.attempts import attempt
from workers.stages.stage import shown, succeeded, tell_redriven

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.settings import Settings
    from shared.storage import ObjectStore
    from workers.claims import Claim, Entry
    from workers.delivery.download import Downloader
    from workers.http.port import HttpClient
    from workers.lanes import Lane
    from workers.stages.stage import Shop

log = structlog.get_logger(__name__)

HOPELESS_TRIES: Final = (
    3  # a forbidden address, an oversize file, another file at our key will not get better
)
ASK_ANEW_TRIES: Final = 3  # the provider may have moved an image whose host does not answer any more
_HOPELESS: Final = (DownloadTrouble.FORBIDDEN, DownloadTrouble.TOO_LARGE, DownloadTrouble.NOT_AN_IMAGE)
PARALLEL: Final = 4

Artifact = dict[str, Any]


class StoreStage:
    """Copies delivered images into the object store."""

    name = "store"

    def __init__(
        self,
        shop: Shop,
        lanes: Mapping[str, Lane],
        client: HttpClient,
        downloader: Downloader,
        store: ObjectStore,
        settings: Settings,
    ) -> None:
        self._shop, self._lanes, self._client = shop, lanes, client
        self._downloader, self._store, self._settings = downloader, store, settings
        self.limit = settings.worker.store_concurrency

    async def claim(self, lane: str, k: int, *, suspects: bool) -> Claim:
        assert not lane
        return await self._shop.claims.store(k, suspects=suspects)

    async def handle(self, entry: Entry) -> None:
        crash_points.cross("store.claimed")
        claimed_at = time.monotonic()
        model = entry.fields.get("model", "")
        tell_redriven(self._shop.events, entry, model)
        self._shop.events.emit("started", entry.id, **shown(entry, model, stage=JobState.STORING))
        urls: list[dict[str, Any]] = from_json(entry.detail[0] or b"[]")
        known: list[Artifact] = from_json(entry.detail[1] or b"[]")
        if entry.poisoned:
            problems: list[DownloadFailure | StorageError] = []
            change = self._copy_failed(known, "its worker died three times while storing it alone")
            note: tuple[str | int, ...] = ()
        else:
            copied, problems = await self._copy_all(entry, urls, known)
            change = await self._change(entry, urls, copied, problems)
            note = self._store_note(len(copied) - len(known), problems)
        plan = Transition(
            job_id=entry.id, epoch=entry.epoch, held="store", changes=(change,), store_note=note
        )
        lane, level = entry.fields.get("lane", ""), WARNING if problems else INFO
        told = {} if not log.is_enabled_for(level) else attempt(
            "store", entry, lane=lane, outcome=change.after, cause=_causes(problems)
        )  # fmt: skip
        applied = await self._shop.recorder.apply(plan)
        crash_points.cross("store.recorded")
        log.log(level, "store_attempted", job_id=entry.id, applied=applied.name, **told)
        if applied is Applied.FIRST:
            _count(entry, change.after, time.monotonic() - claimed_at)
            self._after(entry, change)

    async def _copy_all(
        self, entry: Entry, urls: Sequence[dict[str, Any]], known: Sequence[Artifact]
    ) -> tuple[list[Artifact], list[DownloadFailure | StorageError]]:
        have = {artifact["index"] for artifact in known}
        missing = [at for at in range(len(urls)) if at not in have]
        gate = asyncio.Semaphore(PARALLEL)

        async def copy(at: int) -> Artifact | DownloadFailure | StorageError:
            async with gate:
                return await self._copy(entry, at, urls[at]["url"])

        results = [await copy(missing[0])] if len(missing) == 1 else await asyncio.gather(*map(copy, missing))
        copied = [*known, *(result for result in results if isinstance(result, dict))]
        problems = [result for result in results if not isinstance(result, dict)]
        return sorted(copied, key=lambda artifact: artifact["index"]), problems

    async def _copy(self, entry: Entry, index: int, url: str) -> Artifact | DownloadFailure | StorageError:
        found = await self._downloader.fetch(url, deadline_s=self._settings.worker.download_timeout_s)
        if isinstance(found, DownloadFailure):
            return found
        crash_points.cross("store.downloaded")
        try:
            return await self._put(entry, index, found)
        except StorageError as error:
            return error
        finally:
            found.path.unlink(missing_ok=True)

    async def _put(self, entry: Entry, index: int, found: Downloaded) -> Artifact:
        key = artifact_key(entry.fields["tenant"], entry.id, index, found.extension)
        await self._store.put_file(
            key, found.path, sha256=found.sha256, media_type=found.media_type, size_bytes=found.size_bytes
        )
        crash_points.cross("store.put")
        return {
            "index": index,
            "media_type": found.media_type,
            "object_key": key,
            "sha256": found.sha256,
            "size_bytes": found.size_bytes,
            "width": found.width,
            "height": found.height,
        }

    def _store_note(
        self, put: int, problems: Sequence[DownloadFailure | StorageError]
    ) -> tuple[str | int, ...]:
        """Say what this attempt tells of the object store: "ok" or its trouble; nothing if it was mixed or not asked."""
        troubles = [
            each.kind for each in problems if isinstance(each, StorageError) and each.kind != "conflict"
        ]
        if bool(troubles) == bool(put):
            return ()
        if put:
            return ("ok",)
        return (troubles[0], int(self._settings.worker.store_trouble_s * 1000), STORE_PROBE_MS)

    async def _change(
        self,
        entry: Entry,
        urls: Sequence[dict[str, Any]],
        copied: list[Artifact],
        problems: Sequence[DownloadFailure | StorageError],
    ) -> Change:
        if not problems:
            return self._completed(copied)
        tries = entry.number("tries") + 1
        causes = _causes(problems)
        have = {artifact["index"] for artifact in copied}
        ends_at = min(each["expires_at"] for at, each in enumerate(urls) if at not in have)
        expired = entry.now_ms >= ends_at and not all(map(_is_ours, problems))
        hopeless = tries >= HOPELESS_TRIES and any(map(_is_hopeless, problems))
        gone = any(map(_is_gone, problems))
        # After a redrive they may be long dead, and the provider may still have the images: it is asked once.
        stale = gone or (tries % ASK_ANEW_TRIES == 0 and any(map(_is_away, problems)))
        ask = stale and not hopeless and (not expired or (gone and "redriven" in entry.fields))
        fresh = await self._fresh_urls(entry, urls) if ask else None
        if hopeless or (expired and fresh is None):
            return self._copy_failed(copied, causes)
        return self._again(entry, copied, causes, fresh)

    async def _fresh_urls(self, entry: Entry, urls: Sequence[dict[str, Any]]) -> str | None:
        """Ask the provider once more where the images are; None if it does not say so of exactly those.

        A URL without a stated life has that of the one it replaces: else a dead one would be tried for ever.
        """
        lane = self._lanes.get(entry.fields.get("lane", ""))
        if lane is None:
            return None
        generation_id = entry.fields["generation_id"]
        request = lane.provider.poll_request(generation_id, deadline_s=self._settings.worker.poll_timeout_s)
        outcome = lane.provider.poll_outcome(await self._client.send(request), generation_id)
        if not isinstance(outcome, Succeeded) or len(outcome.images) != len(urls):
            return None
        fresh = [
            {"url": image.url, "expires_at": image.expires_at_ms or known["expires_at"]}
            for image, known in zip(outcome.images, urls, strict=True)
        ]
        return to_json(fresh).decode()

    def _completed(self, artifacts: list[Artifact]) -> Change:
        return Change(
            before=JobState.STORING,
            after=JobState.COMPLETED,
            detail={"artifacts": to_json(artifacts).decode()},
            stamps=("stored_at",),
            clear=LEASE_FIELDS,
            leave=("store", "expiring"),
            images=len(artifacts),
            note=f"{len(artifacts)} images stored",
        )

    def _again(self, entry: Entry, copied: list[Artifact], causes: str, urls: str | None) -> Change:
        retry = self._settings.retry
        delay_s = backoff_s(
            entry.number("tries") + 1, base_s=retry.base_s, cap_s=retry.cap_s, rng=random.random
        )
        detail = {"artifacts": to_json(copied).decode()} | ({"urls": urls} if urls else {})
        return Change(
            before=JobState.STORING,
            after=JobState.STORING,
            detail=detail,
            bump={"tries": 1},
            clear=LEASE_FIELDS,
            due_in=(("store", max(100, int(1000 * delay_s))),),
            note=f"copy failed: {causes}"[:200],
        )

    def _copy_failed(self, copied: list[Artifact], causes: str) -> Change:
        return Change(
            before=JobState.STORING,
            after=JobState.FAILED,
            fields={"error_code": "copy_failed"},
            detail={"error_message": causes[:300], "artifacts": to_json(copied).decode()},
            clear=LEASE_FIELDS,
            leave=("store", "expiring"),
            note="copy_failed, billed",
        )

    def _after(self, entry: Entry, change: Change) -> None:
        if change.due_in:
            self._shop.arm("store", "", change.due_in[0][1])
            return
        if change.after is JobState.COMPLETED:
            keys = [each["object_key"] for each in from_json(change.detail["artifacts"])]
            told = succeeded(entry, change.images, entry.number("cost_micros"), keys)
            self._shop.events.emit("succeeded", entry.id, **told)
        else:
            self._shop.events.emit("failed", entry.id, code="copy_failed")
        self._shop.arm("notify", "", 0)


def _count(entry: Entry, after: JobState, took_s: float) -> None:
    outcomes = {JobState.COMPLETED: "stored", JobState.STORING: "again"}
    metrics.count(metrics.STORE_TRIES, outcomes.get(after, "failed"))
    if after is JobState.COMPLETED:
        waited_ms = entry.now_ms - (entry.number("generated_at") or entry.now_ms)
        metrics.observe(metrics.STORE, waited_ms / 1000 + took_s, entry.fields.get("lane", ""))


def _is_gone(problem: DownloadFailure | StorageError) -> bool:
    return isinstance(problem, DownloadFailure) and problem.kind is DownloadTrouble.GONE


def _is_away(problem: DownloadFailure | StorageError) -> bool:
    return isinstance(problem, DownloadFailure) and problem.kind is DownloadTrouble.RETRY


def _is_ours(problem: DownloadFailure | StorageError) -> bool:
    """Say whether the image was there to be had, and only our store or disk did not take it."""
    return problem.cause == LOCAL_DISK if isinstance(problem, DownloadFailure) else True


def _is_hopeless(problem: DownloadFailure | StorageError) -> bool:
    if isinstance(problem, DownloadFailure):
        return problem.kind in _HOPELESS
    return isinstance(problem, StorageConflict)


def _causes(problems: Sequence[DownloadFailure | StorageError]) -> str:
    return ", ".join(sorted({_cause(problem) for problem in problems}))


def _cause(problem: DownloadFailure | StorageError) -> str:
    return problem.cause if isinstance(problem, DownloadFailure) else f"storage: {problem}"
