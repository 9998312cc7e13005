"""What producers get back: receipts of enqueues, the state of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, overload

from shared.jobs.disposition import Disposition
from shared.jobs.lifecycle import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.pauses import Pause
    from shared.errors import Issue

ID_CHARS: Final = 30
_NO_ID: Final = "-" * ID_CHARS
_CODES: Final = tuple(Disposition)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One accepted job. `price_micros` is the most it can cost (price of one image x n), in micros of `currency`."""

    job_id: str
    disposition: Disposition
    warnings: tuple[str, ...]
    price_micros: int
    currency: str
    retention: str


@dataclass(frozen=True, slots=True)
class ItemReceipt:
    """What became of one item of an `enqueue_many`; `index` counts from 0.

    Rejected items have issues (field, rule, message, value) and no job; one whose idempotency key is in use for
    another request names the job that has it.
    """

    index: int
    disposition: Disposition
    job_id: str | None = None
    issues: tuple[Issue, ...] = ()
    warnings: tuple[str, ...] = ()


class Dispositions(Sequence[ItemReceipt]):
    """One ItemReceipt per item, kept in about 31 bytes each and built when asked for."""

    def __init__(self) -> None:
        self._codes = bytearray()
        self._ids = bytearray()
        self._rare: dict[int, tuple[tuple[Issue, ...], tuple[str, ...]]] = {}

    def extend_enqueued(self, job_ids: Sequence[str]) -> None:
        """Add a run of enqueued items without warnings."""
        self._codes += bytes(len(job_ids))
        self._ids += "".join(job_ids).encode()

    def append(self, item: ItemReceipt) -> None:
        self._codes.append(_CODES.index(item.disposition))
        self._ids += (item.job_id or _NO_ID).encode()
        if item.issues or item.warnings:
            self._rare[item.index] = (item.issues, item.warnings)

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> ItemReceipt: ...
    @overload
    def __getitem__(self, index: slice) -> list[ItemReceipt]: ...
    def __getitem__(self, index: int | slice) -> ItemReceipt | list[ItemReceipt]:
        if isinstance(index, slice):
            return [self._at(at) for at in range(*index.indices(len(self)))]
        return self._at(range(len(self))[index])

    def __iter__(self) -> Iterator[ItemReceipt]:
        return (self._at(at) for at in range(len(self)))

    def _at(self, at: int) -> ItemReceipt:
        job_id = self._ids[at * ID_CHARS : (at + 1) * ID_CHARS].decode()
        issues, warnings = self._rare.get(at, ((), ()))
        return ItemReceipt(
            at, _CODES[self._codes[at]], None if job_id == _NO_ID else job_id, issues, warnings
        )


@dataclass(slots=True)
class BatchReceipt:
    """What became of an `enqueue_many`. `items` is empty if it was called with keep=False.

    `price_micros` is the most that the newly enqueued jobs can cost, by currency. `tenants` own jobs of it: a batch
    belongs to a tenant, so there is one of the name for each. `sealed` says whether it was sealed in the end.
    """

    batch: str | None
    retention: str
    tenants: tuple[str, ...] = ()
    enqueued: int = 0
    duplicates: int = 0
    rejected: int = 0
    sealed: bool = False
    price_micros: dict[str, int] = field(default_factory=dict)
    items: Dispositions = field(default_factory=Dispositions, repr=False)

    @property
    def total(self) -> int:
        return self.enqueued + self.duplicates + self.rejected

    @property
    def job_ids(self) -> list[str]:
        """Jobs that exist for the items, in their order: enqueued and duplicates."""
        return [
            item.job_id for item in self.items if item.job_id and item.disposition is not Disposition.REJECTED
        ]

    @property
    def rejections(self) -> Iterator[ItemReceipt]:
        return (item for item in self.items if item.disposition is Disposition.REJECTED)


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A batch as it was when read. Instants are unix ms; `counts` has every state; money in micros of `currency`.

    `errors` counts its failures by their code, the most frequent first. `paused` is what holds its queued jobs back: a
    pause of the batch, or of its tenant. `stopped` is the cap that ended it early, at `stopped_at`: max_cost or
    max_failed; what was queued then is cancelled. `held_micros` is held by its jobs on their way, `doubt_micros` is of
    submits that were sent again, `queued_micros` the most that those in the queue can cost.
    """

    name: str
    tenant: str
    total: int
    counts: Mapping[str, int]
    sealed: bool
    images: int
    cost_micros: int
    currency: str
    created_at: int | None = None
    sealed_at: int | None = None
    completed_at: int | None = None
    stalled_at: int | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    max_cost_micros: int | None = None
    max_failed_percent: float | None = None
    stopped: str | None = None
    stopped_at: int | None = None
    paused: tuple[Pause, ...] = ()
    held_micros: int = 0
    doubt_micros: int = 0
    queued_micros: int = 0

    @property
    def at_most_micros(self) -> int:
        """What it can cost in the end at most: spent, held, in doubt, and what its queued jobs would, but for its cap."""
        begun = self.cost_micros + self.held_micros + self.doubt_micros
        if self.stopped:
            return begun  # what was queued is cancelled
        if self.max_cost_micros is None:
            return begun + self.queued_micros
        return min(begun + self.queued_micros, max(self.max_cost_micros, begun))

    @property
    def done(self) -> int:
        """Jobs that have ended."""
        ended = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
        return sum(self.counts[state] for state in ended)

    @property
    def settled(self) -> bool:
        """Whether waiting longer is of use: false while jobs are on their way, true if all ended or are unknown."""
        return self.done + self.counts[JobState.UNKNOWN] >= self.total

    @classmethod
    def parse(
        cls,
        name: str,
        tenant: str,
        currency: str,
        record: Mapping[bytes, bytes],
        paused: tuple[Pause, ...] = (),
    ) -> Self:
        """Build from the batch's hash, and what pauses it."""

        def number(field_name: str) -> int | None:
            value = record.get(field_name.encode())
            return int(value) if value is not None else None

        return cls(
            name=name,
            tenant=tenant,
            total=number("total") or 0,
            counts={state: number(f"n:{state}") or 0 for state in JobState},
            sealed=record.get(b"sealed") == b"1",
            images=number("images") or 0,
            cost_micros=number("cost_micros") or 0,
            currency=currency,
            created_at=number("created_at"),
            sealed_at=number("sealed_at"),
            completed_at=number("completed_at"),
            stalled_at=number("stalled_at"),
            errors=_errors(record),
            max_cost_micros=number("max_cost"),
            max_failed_percent=ppm / 10_000 if (ppm := number("max_failed_ppm")) is not None else None,
            stopped=stopped.decode() if (stopped := record.get(b"stopped")) else None,
            stopped_at=number("stopped_at"),
            paused=paused,
            held_micros=max(0, number("held_micros") or 0),
            doubt_micros=max(0, number("doubt_micros") or 0),
            queued_micros=max(0, number("queued_micros") or 0),
        )


def _errors(record: Mapping[bytes, bytes]) -> dict[str, int]:
    counts = {
        name.removeprefix(b"e:").decode(): int(count)
        for name, count in record.items()
        if name.startswith(b"e:") and int(count) > 0
    }
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))
