"""The examination: each part on a thread, so that what does not answer costs its own time only."""

from __future__ import annotations

import asyncio
import os
import ssl  # noqa: F401 - loaded before threads are: each part may be the first to want it
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from producers.doctor.books import judge_ledger
from producers.doctor.configuration import judge_settings, judge_sources
from producers.doctor.credentials import look_at_secrets
from producers.doctor.findings import bad, beware, good
from producers.doctor.lanes import judge_left_lanes, read_left_lanes
from producers.doctor.reach import reach
from producers.doctor.spool import look_at_spool
from producers.doctor.state import judge_state, read_state
from producers.doctor.work import judge_endpoints, judge_stores, judge_versions, judge_work
from producers.overview import parse_overview, queue_overview
from producers.parties import queue_endpoints, read_parties
from shared.errors import ConfigurationError, DarkroomError, StorageError
from shared.redis.client import make_client, translated
from shared.redis.keys import Keys
from shared.settings_layers import dev_stack, from_file, settings_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from producers.doctor.findings import Finding
    from producers.doctor.lanes import LeftLane
    from producers.overview import Overview
    from producers.parties import Parties
    from shared.settings import Settings

STORE_WITHIN_S: Final = 20.0
BROKER_WITHIN_S: Final = 5.0  # of the ten that a person waits for an error


def examine(settings: Settings, *, producer_only: bool = False, send_test: bool = False) -> list[Finding]:
    """Look at everything; nothing is raised for what is found.

    `producer_only` leaves out what only machines with workers need. `send_test` sends a signed test event to every
    named endpoint; without it no request goes anywhere but to Redis, the broker and the object store.
    """
    parts: list[Callable[[], list[Finding]]] = [
        lambda: [
            *_settings_file(),
            *judge_sources(settings, os.environ, from_file(), dev_stack()),
            *judge_settings(settings),
        ],
        lambda: list(look_at_secrets(settings, producer_only=producer_only)),
        lambda: _state_and_storage(settings),
        lambda: list(_broker(settings)),
    ]
    if not producer_only:
        parts += [
            lambda: list(_providers(settings)),
            lambda: list(_endpoints(settings, send_test=send_test)),
            lambda: list(look_at_spool(settings.worker)),
        ]
    with ThreadPoolExecutor(len(parts)) as pool:
        return [finding for part in pool.map(lambda each: each(), parts) for finding in part]


def _settings_file() -> Iterator[Finding]:
    """A file need not exist; one that was named, and is not there, is likely a mistake."""
    if "DARKROOM_CONFIG" in os.environ and not settings_file().exists():
        what = f"DARKROOM_CONFIG names {settings_file()}, which does not exist"
        yield beware("settings", what, "Correct it, or unset it.")


def _state_and_storage(settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    work: _Work | None = None
    try:
        with make_client(settings.redis) as client, translated(settings.redis.url):
            found += judge_state(read_state(client), strict=settings.redis.durability == "strict")
            found.append(judge_ledger(client, Keys.of(settings.redis.namespace)))
            work = _work(client, settings)
    except DarkroomError as error:
        what, _, do = str(error).partition(". ")
        found.append(bad("state", what, do))
    stored, identity = _storage(settings)
    found += stored
    if work is not None:
        found += judge_stores(identity, work.stores)
        found += judge_work(work.overview)
        found += judge_left_lanes(work.left)
        found += judge_versions(work.parties.workers)
        found += judge_endpoints(work.parties.endpoints)
    return found


@dataclass(frozen=True, slots=True)
class _Work:
    """The state of the work, which store each living worker found, and who takes part."""

    overview: Overview
    stores: dict[str, str | None]
    parties: Parties
    left: list[LeftLane]


def _work(client: Redis, settings: Settings) -> _Work:
    keys = Keys.of(settings.redis.namespace)
    pipe = client.pipeline(transaction=False)
    lanes = queue_overview(pipe, keys, settings)
    queue_endpoints(pipe, keys)
    *replies, hosts, _count = pipe.execute()
    overview = parse_overview(lanes, replies, settings)
    for name in overview.workers:
        pipe.hget(keys.worker(name), "store")
    told: list[Any] = pipe.execute()
    stores = {name: found and found.decode() for name, found in zip(overview.workers, told, strict=True)}
    parties = read_parties(client, keys, overview.workers, [host.decode() for host in hosts], overview.at_ms)
    return _Work(overview, stores, parties, read_left_lanes(client, keys, settings))


def _storage(settings: Settings) -> tuple[list[Finding], str | None]:
    """Write, read and delete a probe; give the store's identity."""
    from shared.storage import open_store  # noqa: PLC0415 - obstore is not needed to say that storage is off

    if not settings.storage.enabled:
        return [good("storage", "is off")], None
    if settings.storage.url.startswith("memory:"):
        do = "Set storage.url to s3:// or file://."
        return [bad("storage", "memory:// belongs to one process: nobody else sees its images", do)], None
    try:
        store = open_store(settings.storage)

        async def probe() -> str:
            async with asyncio.timeout(STORE_WITHIN_S):
                await store.probe()
                return await store.identity()

        identity = asyncio.run(probe())
    except TimeoutError:
        what = f"it does not answer within {STORE_WITHIN_S:.0f} s"
        return [bad("storage", what, "Check storage.endpoint, and that it is up.")], None
    except (StorageError, ConfigurationError) as error:
        what, _, do = str(error).partition(". ")
        return [bad("storage", what, do)], None
    return [good("storage", f"an object was written, read and deleted in {settings.storage.url}")], identity


def _broker(settings: Settings) -> Iterator[Finding]:
    from shared.broker import (  # noqa: PLC0415 - Celery takes half a second
        STAGES,
        UNREAD_MAX,
        make_app,
        transport_options,
        unread_hints,
    )

    try:
        app = make_app(settings)
        app.conf.broker_transport_options = {**transport_options(settings), "socket_timeout": BROKER_WITHIN_S}
        unread = {stage: unread_hints(app, stage) for stage in STAGES}
    except ConfigurationError as error:
        what, _, do = str(error).partition(". ")
        yield bad("broker", what, do)
        return
    except Exception as error:  # noqa: BLE001 - each transport raises its own; their text may hold the password
        what = f"it cannot be used ({type(error).__name__}): stages run without hints, later than they could"
        yield bad("broker", what, "Start it, or correct broker.url.")
        return
    yield good("broker", "it takes hints")
    for stage, count in unread.items():
        if count > UNREAD_MAX:
            yield beware(
                "broker", f"{count} hints for {stage} were read by nobody", "See whether workers are alive."
            )


def _providers(settings: Settings) -> Iterator[Finding]:
    for url in sorted({str(account.base_url) for account in settings.accounts.values()}):
        names = sorted(name for name, each in settings.accounts.items() if str(each.base_url) == url)
        reached, of = reach(url), f"of {', '.join(names)}"
        if reached.trouble:
            what = f"{reached.where} {of}: {reached.trouble}"
            yield bad("provider", what, "Check accounts.NAME.base_url, DNS and firewall.")
        else:
            yield good("provider", f"{reached.where} {of} can be reached; no key was sent")


def _endpoints(settings: Settings, *, send_test: bool) -> Iterator[Finding]:
    hooks = settings.webhooks
    for name, endpoint in sorted(hooks.endpoints.items()):
        reached = reach(str(endpoint.url))
        if reached.trouble:
            what = f"endpoint {name} at {reached.where}: {reached.trouble}"
            yield bad("webhooks", what, f"Check webhooks.endpoints.{name}.url, DNS and firewall.")
        elif reached.private and not hooks.allow_private:
            what = f"endpoint {name} at {reached.where} has a private address, which workers refuse"
            yield bad("webhooks", what, "Give it a public one, or set webhooks.allow_private.")
        elif send_test:
            yield _tested(settings, name)
        else:
            yield good("webhooks", f"endpoint {name} at {reached.where} can be reached; no event was sent")


def _tested(settings: Settings, name: str) -> Finding:
    from producers.webhooks import send_test  # noqa: PLC0415 - brings httpx

    try:
        answer = send_test(settings, name)
    except DarkroomError as error:
        what, _, do = str(error).partition(". ")
        return bad("webhooks", f"endpoint {name}: {what}", do or "Correct its settings.")
    if answer.acknowledged:
        return good("webhooks", f"endpoint {name} took a signed test event ({answer.status})")
    said = answer.trouble or f"it answered {answer.status}"
    return bad(
        "webhooks", f"endpoint {name} did not take a signed test event: {said}", "It has to answer 2xx."
    )
