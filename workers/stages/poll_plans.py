"""What becomes of a generation after a poll. Pure.

Each plan is made for the state the claim read: a job in `generating` moves on; one that has ended (cancelled, or
failed while its bill was open) keeps its state, and only its accounting is finished. If the state moved in between,
the script refuses the plan and gives the entry back, due at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import to_json

from shared.jobs.lifecycle import JobState
from shared.jobs.transition import LEASE_FIELDS, Change, Transition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workers.claims import Entry
    from workers.lanes import Lane
    from workers.providers.outcomes import ResultImage

GENERATING = JobState.GENERATING
DAY_MS = 24 * 3600 * 1000


def plan_snooze(
    entry: Entry,
    lane: Lane,
    delay_ms: int,
    *,
    note: str = "",
    slot_ms: int | None = None,
    empty: bool = False,
) -> Transition:
    """Ask again later; not an attempt. `empty`: it was said to be done, but came without an image."""
    state = JobState(entry.fields["state"])
    change = Change(
        before=state,
        after=state,
        bump={"polls": 1} | ({"empty_polls": 1} if empty else {}),
        clear=LEASE_FIELDS,
        due_in=((f"poll:{lane.name}", delay_ms),),
        keep_slot=None if slot_ms is None else (lane.name, slot_ms),
        note=note,
    )
    return _transition(entry, change)


def plan_delivered(
    entry: Entry, lane: Lane, images: Sequence[ResultImage], evidence: str | None, *, store: bool
) -> Transition:
    """Settle at what came; copy it, or without storage end here with the provider's URLs.

    More than was asked for is not paid: the provider charges n in advance [vendor page], and no cap was asked for more.
    """
    delivered = len(images)
    settle = min(delivered, entry.number("n")) * _price_micros(entry, lane)
    urls = to_json([{"url": image.url, "expires_at": _expires_at(entry, image)} for image in images]).decode()
    fields: dict[str, str | int] = {"delivered": delivered, "partial": int(delivered < entry.number("n"))}
    detail: dict[str, str] = {"urls": urls} | ({"provider_cost": evidence} if evidence else {})
    if entry.fields["state"] != GENERATING:
        return _transition(entry, _settled(entry, lane, settle, fields, detail))
    live = Change(
        before=GENERATING,
        after=JobState.STORING if store else JobState.COMPLETED,
        fields=fields,
        detail=detail | ({} if store else {"artifacts": _url_artifacts(entry, images)}),
        stamps=("generated_at",),
        bump={"polls": 1},
        clear=LEASE_FIELDS,
        leave=(f"poll:{lane.name}",),
        due_in=(("store", 0),) if store else (),
        free_slot=lane.name,
        settle_micros=settle,
        images=0 if store else delivered,
        note=f"{delivered} of {entry.number('n')} images delivered",
    )
    return _transition(entry, live)


def plan_failed(
    entry: Entry, lane: Lane, code: str, message: str, *, settle_micros: int = 0, flag: str = ""
) -> Transition:
    """Fail: the provider failed it or lost it. Released, or settled when it may have been billed."""
    if entry.fields["state"] != GENERATING:
        return _transition(entry, _settled(entry, lane, settle_micros, {}, {}))
    marks: dict[str, str | int] = {"error_code": code}
    if flag:
        marks["flag"] = flag
    live = Change(
        before=GENERATING,
        after=JobState.FAILED,
        fields=marks,
        detail={"error_message": message},
        bump={"polls": 1},
        clear=LEASE_FIELDS,
        leave=(f"poll:{lane.name}",),
        free_slot=lane.name,
        settle_micros=settle_micros or None,
        release=not settle_micros,
        note=f"{code}, {'billed' if settle_micros else 'free'}",
    )
    return _transition(entry, live)


def full_price_micros(entry: Entry, lane: Lane) -> int:
    """Give the most this generation can have cost."""
    return entry.number("n") * _price_micros(entry, lane)


def _settled(
    entry: Entry, lane: Lane, settle_micros: int, fields: Mapping[str, str | int], detail: Mapping[str, str]
) -> Change:
    """Finish the accounting of a job that has ended; its retention starts now."""
    state = JobState(entry.fields["state"])
    return Change(
        before=state,
        after=state,
        fields=fields,
        detail=detail,
        stamps=("generated_at",),
        clear=(*LEASE_FIELDS, "accounting", "unknown_cause"),
        leave=(f"poll:{lane.name}", "unknown"),
        free_slot=lane.name,
        settle_micros=settle_micros or None,
        release=not settle_micros,
        close_accounting=True,
        note=f"accounting closed, {settle_micros} micros",
    )


def _transition(entry: Entry, change: Change) -> Transition:
    return Transition(job_id=entry.id, epoch=entry.epoch, held=entry.index, changes=(change,))


def _price_micros(entry: Entry, lane: Lane) -> int:
    """Give the price the hold was made at; the lane's if the hold is gone (released, then attached late)."""
    held, n = entry.number("hold"), entry.number("n")
    return held // n if held and n else lane.price_micros


def _expires_at(entry: Entry, image: ResultImage) -> int:
    """Give the end of the URL's life: the provider's word, else a day [vendor copies say 24 h; some say 72 h]."""
    return image.expires_at_ms or entry.now_ms + DAY_MS


def _url_artifacts(entry: Entry, images: Sequence[ResultImage]) -> str:
    return to_json(
        [
            {"index": at, "media_type": "image/*", "url": image.url, "expires_at": _expires_at(entry, image)}
            for at, image in enumerate(images)
        ]
    ).decode()
