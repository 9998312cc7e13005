"""One `enqueue_many`, without its I/O: items in, chunks out, the script's answers back in.

The life of an item: `add` judges and encodes it into the open chunk, or rejects it there. When `add` says that the
chunk is full, the edge `take`s it, stores its uploads and sends its `calls`; while the server works on them, items go
into the next chunk. `record` turns the replies into dispositions, in the order of the items.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from producers.receipt import ItemReceipt
from shared.errors import InvalidRequest, Issue, UnknownPrice
from shared.jobs.disposition import Disposition
from shared.jobs.enqueue import (
    CHUNK_JOBS,
    SPEC_START,
    JobParams,
    idempotency_digest,
    job_kind,
    key_issues,
    new_job_ids,
    parse_placed,
    spec_end,
)
from shared.jobs.names import check_name
from shared.jobs.request import fingerprint, parse_request, request_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from producers.core import Core
    from producers.receipt import BatchReceipt
    from shared.errors import DarkroomError
    from shared.jobs.data_uri import DataUri
    from shared.jobs.enqueue import Placed
    from shared.jobs.request import GenerationRequest
    from shared.money.caps import BatchCaps
    from shared.redis.scripts import Argument

CHUNK_BYTES: Final = 8 * 1024 * 1024  # of specs and uploads: with large inputs a chunk is fewer jobs
WAIT_S: Final = 0.2  # an iterable that gives items slowly does not have to fill a chunk
HINT_EVERY_S: Final = 1.0
_RULES: Final = {
    "backlog": "backlog",
    "tenant_backlog": "backlog",
    "batch_sealed": "sealed",
    "batch_caps": "conflict",
}
_KEY_ONLY: Final = frozenset({"idempotency_key"})

Shape = tuple[str, int, bool]  # model, n, sequential


class _Group:
    """The jobs of one tenant in a chunk: one script call."""

    __slots__ = ("ids", "keys", "places", "rows", "shapes")

    def __init__(self) -> None:
        self.rows: list[Argument] = []
        self.ids: list[str] = []
        self.places: list[int] = []
        self.shapes: list[Shape] = []
        self.keys: list[str | None] = []


class Chunk:
    """Items in their order: rejected at once, or waiting for the script's answer (None)."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.items: list[ItemReceipt | None] = []
        self.groups: dict[str, _Group] = {}
        self.warnings: dict[int, tuple[str, ...]] = {}
        self.uploads: dict[str, tuple[str, DataUri]] = {}
        self.size_bytes = 0
        self.opened_at = time.monotonic()
        self.ids: Iterator[str] = new_job_ids(CHUNK_JOBS)

    @property
    def full(self) -> bool:
        return len(self.items) >= CHUNK_JOBS or self.size_bytes >= CHUNK_BYTES

    def reject(self, issues: tuple[Issue, ...]) -> None:
        index = self.first + len(self.items)
        self.items.append(ItemReceipt(index, Disposition.REJECTED, None, issues))


class Bulk:
    """The state of one `enqueue_many`; `receipt` is what has been acknowledged so far."""

    def __init__(
        self,
        core: Core,
        receipt: BatchReceipt,
        *,
        tenant: str | None,
        batch_webhook: str | None,
        batch_caps: BatchCaps | None = None,
        defaults: Mapping[str, Any],
        now_ms: Callable[[], int],
        keep: bool,
        on_disposition: Callable[[ItemReceipt], object] | None,
    ) -> None:
        if receipt.batch is not None:
            check_name("batch", receipt.batch)
        if batch_webhook is not None and (issue := core.webhook_issue(batch_webhook)):
            raise InvalidRequest((issue,))
        if defaults.get("idempotency_key") is not None:
            raise InvalidRequest((_KEY_OF_MANY,))
        self.receipt = receipt
        self._core, self._batch, self._now_ms = core, receipt.batch, now_ms
        self._tenant, self._defaults = core.tenant(tenant), core.params(defaults, now_ms)
        self._batch_webhook = batch_webhook or self._defaults.webhook
        self._batch_caps = _caps_of(batch_caps, core, receipt.batch)
        self._keep, self._on_disposition = keep, on_disposition
        self._default_end = spec_end(self._defaults)
        self._models: set[str] = set()
        self._hint_at = time.monotonic() + HINT_EVERY_S
        self._kinds: dict[Shape, bytes] = {}
        self._chunk = Chunk(0)

    # --- items in ---

    def add(self, item: object) -> bool:
        """Take one item: a request, or (request, options). True: take and send the chunk."""
        chunk = self._chunk
        given, own = item if type(item) is tuple and len(item) == 2 else (item, None)  # noqa: PLR2004 - a pair
        try:
            self._place(chunk, given, own)
        except InvalidRequest as error:
            chunk.reject(error.issues)
        except UnknownPrice as error:
            chunk.reject((Issue("model", "price", str(error), error.model),))
        return chunk.full or time.monotonic() - chunk.opened_at > WAIT_S

    def _place(self, chunk: Chunk, given: Any, own: Any) -> None:
        request = parse_request(given)
        tenant, key, params = self._tenant, None, self._defaults
        if own is not None:
            tenant, key, params = self._options(own)
        warnings = request.warnings
        if request.image_urls:
            request = self._keep_inputs(chunk, request, tenant)
        shape = (request.model, request.n, bool(request.enable_sequential))
        if params is self._defaults:
            kind, end = self._kinds.get(shape) or self._new_kind(shape), self._default_end
        else:
            kind, end = job_kind(*shape, params, self._core.offer(request.model).price), spec_end(params)
        body = request_bytes(request)
        spec = SPEC_START + body + end
        job_id = next(chunk.ids)
        group = chunk.groups.get(tenant) or chunk.groups.setdefault(tenant, _Group())
        group.rows += (job_id, idempotency_digest(key), fingerprint(body), kind, spec)
        group.ids.append(job_id)
        group.places.append(len(chunk.items))
        group.shapes.append(shape)
        group.keys.append(key)
        if warnings:
            chunk.warnings[len(chunk.items)] = warnings
        chunk.items.append(None)
        chunk.size_bytes += len(spec)

    def _new_kind(self, shape: Shape) -> bytes:
        price = self._core.offer(shape[0]).price
        kind = self._kinds[shape] = job_kind(*shape, self._defaults, price)
        return kind

    def _options(self, own: Any) -> tuple[str, str | None, JobParams]:
        """Give an item's own tenant, idempotency key and parameters. A key alone is the common, fast case."""
        if not isinstance(own, Mapping):
            raise InvalidRequest((_NOT_A_MAPPING,))
        if own.keys() == _KEY_ONLY:
            key = own["idempotency_key"]
            if key is not None and (issues := key_issues(key)):
                raise InvalidRequest(issues)
            return self._tenant, key, self._defaults
        options = {name: value for name, value in own.items() if name != "tenant"}
        tenant = self._tenant if own.get("tenant") is None else self._core.tenant(own["tenant"])
        params = self._core.params(options, self._now_ms, self._defaults)
        return tenant, params.idempotency_key, params

    def _keep_inputs(self, chunk: Chunk, request: GenerationRequest, tenant: str) -> GenerationRequest:
        kept, uploads = self._core.keep_inputs(request, tenant)
        for key, uri in uploads.items():
            chunk.uploads[key] = (tenant, uri)
            chunk.size_bytes += len(uri.text)
        return kept

    # --- chunks out ---

    def take(self) -> Chunk:
        """Close the open chunk and open the next."""
        chunk = self._chunk
        self._chunk = Chunk(chunk.first + len(chunk.items))
        return chunk

    def listen(self) -> None:
        """Start the time that a chunk waits for items: now, not while the chunk before it was dealt with."""
        self._chunk.opened_at = time.monotonic()

    def calls(self, chunk: Chunk) -> list[tuple[Argument, ...]]:
        """Give the arguments of the chunk's script calls, one per tenant."""
        return [
            (self._core.header(tenant, self._batch, self._batch_webhook, self._batch_caps), *group.rows)
            for tenant, group in chunk.groups.items()
        ]

    def check(self) -> None:
        """Close the open chunk and take its jobs as accepted, without a server: for a dry run."""
        chunk = self.take()
        self.record(chunk, [[0] * len(group.ids) for group in chunk.groups.values()])

    # --- answers in ---

    def record(self, chunk: Chunk, replies: list[list[int | bytes]]) -> DarkroomError | None:
        """Take the script's answers. Gives the error that ends the enqueue: no room, or the batch is sealed."""
        stop: DarkroomError | None = None
        for (tenant, group), reply in zip(chunk.groups.items(), replies, strict=True):
            if any(reply):
                stop = self._record_mixed(chunk, tenant, group, reply) or stop
                continue
            self._count(group.shapes)
            self._join(tenant)
            if self._is_plain(chunk, group):
                if self._keep:
                    self.receipt.items.extend_enqueued(group.ids)
                return None
            for place, job_id in zip(group.places, group.ids, strict=True):
                warnings = chunk.warnings.get(place, ())
                chunk.items[place] = ItemReceipt(
                    chunk.first + place, Disposition.ENQUEUED, job_id, (), warnings
                )
        self._tell(chunk)
        return stop

    def lanes_to_hint(self, *, final: bool) -> set[str]:
        """Give the lanes that have new work, now and then: looking is not free, and workers look by themselves."""
        if not final and time.monotonic() < self._hint_at:
            return set()
        models, self._models = self._models, set()
        self._hint_at = time.monotonic() + HINT_EVERY_S
        return {lane for model in models for lane in self._core.offer(model).lanes}

    def _is_plain(self, chunk: Chunk, group: _Group) -> bool:
        """Whether every item of the chunk was enqueued without a remark, and nobody wants to hear of each."""
        whole = len(group.ids) == len(chunk.items)
        return whole and not chunk.warnings and self._on_disposition is None

    def _record_mixed(
        self, chunk: Chunk, tenant: str, group: _Group, reply: list[int | bytes]
    ) -> DarkroomError | None:
        stop: DarkroomError | None = None
        accepted: list[Shape] = []
        placed = parse_placed(group.ids, reply)
        for place, shape, key, answer in zip(group.places, group.shapes, group.keys, placed, strict=True):
            chunk.items[place] = self._item(chunk, place, key, answer, tenant)
            if answer.result == "enqueued":
                accepted.append(shape)
            if answer.result != "over_cap":  # a cheaper job may still fit
                stop = self._core.refusal(answer, tenant, self._batch) or stop
        self._count(accepted)
        if accepted or any(answer.result == "duplicate" for answer in placed):
            self._join(tenant)
        return stop

    def _item(self, chunk: Chunk, place: int, key: str | None, answer: Placed, tenant: str) -> ItemReceipt:
        index, warnings = chunk.first + place, chunk.warnings.get(place, ())
        match answer.result:
            case "enqueued" | "duplicate":
                return ItemReceipt(index, Disposition(answer.result), answer.job_id, (), warnings)
            case "conflict":
                message = f"idempotency_key belongs to job {answer.job_id}, enqueued with another request"
                issue = Issue("idempotency_key", "conflict", message, (key or "")[:80])
                return ItemReceipt(index, Disposition.REJECTED, answer.job_id, (issue,))
            case "over_cap":
                issue = Issue("cap", "over_cap", str(self._core.refusal(answer, tenant, self._batch)))
                return ItemReceipt(index, Disposition.REJECTED, None, (issue,))
            case _:
                message = _REFUSED[answer.result]
                issue = Issue("", _RULES[answer.result], message)
                return ItemReceipt(index, Disposition.REJECTED, None, (issue,))

    def _count(self, shapes: list[Shape]) -> None:
        """Add enqueued jobs to the receipt, and what they can cost at most."""
        self.receipt.enqueued += len(shapes)
        prices = self.receipt.price_micros
        for (model, n, _), count in Counter(shapes).items():
            offer = self._core.offer(model)
            prices[offer.currency] = prices.get(offer.currency, 0) + offer.price_micros * n * count
            self._models.add(model)

    def _join(self, tenant: str) -> None:
        if tenant not in self.receipt.tenants:
            self.receipt.tenants = tuple(sorted((*self.receipt.tenants, tenant)))

    def _tell(self, chunk: Chunk) -> None:
        for item in chunk.items:
            if item is None:
                continue
            if item.disposition is Disposition.DUPLICATE:
                self.receipt.duplicates += 1
            elif item.disposition is Disposition.REJECTED:
                self.receipt.rejected += 1
            if self._keep:
                self.receipt.items.append(item)
            if self._on_disposition is not None:
                self._on_disposition(item)


def _caps_of(caps: BatchCaps | None, core: Core, batch: str | None) -> dict[str, str]:
    if caps is None:
        return {}
    if batch is None:
        raise InvalidRequest((Issue("batch_caps", "batch", "batch_caps are those of a batch: name one"),))
    if caps.max_cost is not None and not core.settings.currency:
        raise InvalidRequest((_MANY_CURRENCIES,))
    return caps.fields()


_MANY_CURRENCIES: Final = Issue(
    "max_cost", "currency", "max_cost needs accounts of one currency: a batch may be served by any of them"
)
_KEY_OF_MANY: Final = Issue(
    "idempotency_key",
    "single",
    "idempotency_key belongs to one job: give it with the item, as (request, options)",
)
_NOT_A_MAPPING: Final = Issue(
    "", "type", "an item must be a request, or a pair of request and job parameters"
)
_REFUSED: Final = {
    "backlog": "the backlog of all tenants is full",
    "tenant_backlog": "the backlog of the tenant is full",
    "batch_sealed": "the batch is sealed and takes no more jobs",
    "batch_caps": "the batch was begun with other caps",
}
