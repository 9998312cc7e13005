"""Judging, pricing and encoding a job, without any I/O: what everything that accepts jobs has in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypedDict

from shared.errors import (
    BacklogFull,
    BatchCapsConflict,
    BatchSealed,
    CapReached,
    IdempotencyConflict,
    InvalidRequest,
    Issue,
    UnknownPrice,
)
from shared.instants import Instant, instant_ms
from shared.jobs.enqueue import (
    JobParams,
    OnUnknown,
    check_params,
    header_json,
    is_unicode,
    job_arguments,
    new_job_ids,
    parse_placed,
)
from shared.jobs.names import check_name
from shared.jobs.request import data_uris, fingerprint, parse_request, request_bytes, with_inputs
from shared.money.caps import reject_caps
from shared.money.price import format_money
from shared.redis.keys import Keys
from shared.storage import input_key
from shared.webhooks.endpoints import check_webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.errors import DarkroomError
    from shared.jobs.data_uri import DataUri
    from shared.jobs.enqueue import Placed, Price
    from shared.jobs.request import GenerationRequest
    from shared.redis.scripts import Argument
    from shared.settings import AccountSettings, Settings


class JobDefaults(TypedDict, total=False):
    """What a job may carry beside its request. None is as if not given.

    Instants are aware datetimes, unix seconds, timedeltas from the state server's now, or text for one of these.
    """

    priority: int | None
    not_before: Instant | None
    deadline: Instant | None
    metadata: Any
    webhook: str | None
    on_unknown: OnUnknown | None


class JobOptions(JobDefaults, total=False):
    """The same, and what makes sense for one job only."""

    idempotency_key: str | None


OPTION_NAMES: Final = JobOptions.__required_keys__ | JobOptions.__optional_keys__


@dataclass(frozen=True, slots=True)
class Offer:
    """What one image of a model costs at most (micros of `currency`), and the lanes that serve the model."""

    price_micros: int
    currency: str
    lanes: tuple[str, ...]

    @property
    def price(self) -> Price:
        return self.price_micros, self.currency


@dataclass(frozen=True, slots=True)
class Order:
    """One job, judged, priced and encoded. `uploads` (object key -> image) must be stored before it is sent."""

    job_id: str
    tenant: str
    batch: str | None
    idempotency_key: str | None
    model: str
    arguments: tuple[Argument, ...]
    uploads: Mapping[str, DataUri]
    warnings: tuple[str, ...]
    price_micros: int
    currency: str


class Orders:
    """Settings, and what follows from them for whoever accepts jobs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys.of(settings.redis.namespace)
        self.offers = _offers(settings.accounts)
        self._webhook_issue = lru_cache(maxsize=1024)(self._judge_webhook)

    def tenant(self, given: str | None) -> str:
        """Give the tenant, by default that of the settings. Raises InvalidRequest."""
        tenant = self.settings.tenant if given is None else given
        check_name("tenant", tenant)
        return tenant

    def offer(self, model: str) -> Offer:
        """Raises UnknownPrice for a model that no account serves at a known price."""
        try:
            return self.offers[model]
        except KeyError:
            raise UnknownPrice(model) from None

    def lanes(self, model: str) -> tuple[str, ...]:
        """Give the lanes that serve a model; none for a model that is gone from the settings."""
        return self.offers[model].lanes if model in self.offers else ()

    def params(
        self, options: Mapping[str, Any], now_ms: Callable[[], int], defaults: JobParams | None = None
    ) -> JobParams:
        """Judge a job's own fields; what is None is as in `defaults`. Raises InvalidRequest with every issue."""
        given = {name: value for name, value in options.items() if value is not None}
        issues = [*_unknown_options(given)]
        for name in ("not_before", "deadline"):
            if name in given:
                try:
                    given[name + "_at"] = instant_ms(name, given.pop(name), now_ms)
                except InvalidRequest as error:
                    issues += error.issues
        webhook = given.get("webhook")
        if webhook is not None and (issue := self.webhook_issue(webhook)):
            issues.append(issue)
        if not issues:
            params = replace(defaults or JobParams(), **given)
            check_params(params)
            return params
        raise InvalidRequest(tuple(issues))

    def webhook_issue(self, webhook: object) -> Issue | None:
        if isinstance(webhook, str) and is_unicode(webhook):
            return self._webhook_issue(webhook)
        return Issue("webhook", "type", "webhook must be text: a URL or the name of a configured endpoint")

    def _judge_webhook(self, webhook: str) -> Issue | None:
        return check_webhook(self.settings.webhooks, webhook)

    def header(
        self,
        tenant: str,
        batch: str | None,
        batch_webhook: str | None,
        batch_caps: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        caps = reject_caps(self.settings.caps, tenant) if self.settings.caps else ()
        return header_json(
            tenant, batch, batch_webhook, self.settings.limits, caps=caps, batch_caps=dict(batch_caps)
        )

    def keep_inputs(
        self, request: GenerationRequest, tenant: str
    ) -> tuple[GenerationRequest, dict[str, DataUri]]:
        """Put references in place of data URIs: give the request as recorded, and what must be stored for it."""
        found = {
            index: (uri, input_key(tenant, hashlib.sha256(uri.payload).hexdigest(), uri.extension))
            for index, uri in data_uris(request)
        }
        if not found:
            return request, {}
        if not self.settings.storage.enabled:
            raise InvalidRequest((_NO_STORE,))
        kept = with_inputs(request, {index: key for index, (_, key) in found.items()})
        return kept, {key: uri for uri, key in found.values()}

    def order(
        self,
        given: Any,
        *,
        tenant: str | None,
        batch: str | None,
        params: JobParams,
        job_id: str | None = None,
    ) -> Order:
        """Judge and encode one job, under a new id unless one is given. Raises InvalidRequest, UnknownPrice."""
        owner = self.tenant(tenant)
        if batch is not None:
            check_name("batch", batch)
        request = parse_request(given)
        offer = self.offer(request.model)
        kept, uploads = self.keep_inputs(request, owner)
        job_id = job_id or next(new_job_ids(1))
        body = request_bytes(kept)
        row = job_arguments(
            job_id,
            body,
            fingerprint(body),
            request.model,
            request.n,
            bool(request.enable_sequential),
            params,
            offer.price,
        )
        return Order(
            job_id=job_id,
            tenant=owner,
            batch=batch,
            idempotency_key=params.idempotency_key,
            model=request.model,
            arguments=(self.header(owner, batch, params.webhook), *row),
            uploads=uploads,
            warnings=request.warnings,
            price_micros=offer.price_micros * request.n,
            currency=offer.currency,
        )

    def placed(self, order: Order, reply: list[int | bytes]) -> Placed:
        """Read the script's answer. Raises IdempotencyConflict, BacklogFull, CapReached, BatchSealed."""
        (placed,) = parse_placed([order.job_id], reply)
        if placed.result == "conflict":
            raise IdempotencyConflict(order.idempotency_key or "", placed.job_id)
        if refusal := self.refusal(placed, order.tenant, order.batch):
            raise refusal
        return placed

    def refusal(self, placed: Placed, tenant: str, batch: str | None) -> DarkroomError | None:
        """Give the error of a job that was refused for what is around it, not for what it is."""
        match placed.result:
            case "backlog":
                return BacklogFull("all tenants", self.settings.limits.backlog)
            case "tenant_backlog":
                return BacklogFull(f"tenant {tenant}", self.settings.limits.backlog_per_tenant)
            case "over_cap":
                return CapReached(tenant, self.caps_of(tenant))
            case "batch_sealed":
                return BatchSealed(batch or "")
            case "batch_caps":
                return BatchCapsConflict(batch or "")
            case _:
                return None

    def caps_of(self, tenant: str) -> str:
        """Write the caps that reject a tenant's jobs: `100.00 CNY a day`."""
        return ", ".join(
            f"{format_money(limit, currency)} {'in total' if window == 'total' else f'a {window}'}"
            for window, limit, currency in reject_caps(self.settings.caps, tenant)
        )


_NO_STORE: Final = Issue(
    "image_urls",
    "storage",
    "image_urls: data URIs are kept in the object store, and storage is off. Set storage.url or give http(s) URLs.",
)


def _unknown_options(given: Mapping[str, Any]) -> list[Issue]:
    known = ", ".join(sorted(OPTION_NAMES))
    return [
        Issue(
            str(name)[:64],
            "unknown_field",
            f"{str(name)[:64]} is not a parameter of a job; known are {known}",
        )
        for name in given
        if name not in OPTION_NAMES
    ]


def _offers(accounts: Mapping[str, AccountSettings]) -> dict[str, Offer]:
    """Give the dearest price of each model: what a job costs at most, whichever lane takes it."""
    offers: dict[str, Offer] = {}
    for name, account in accounts.items():
        for model in account.models:
            if (price := account.price_micros.get(model)) is None:
                continue
            known = offers.get(model)
            lanes = (*(known.lanes if known else ()), f"{name}/{model}")
            if known and known.price_micros >= price:
                offers[model] = replace(known, lanes=lanes)
            else:
                offers[model] = Offer(price, account.currency, lanes)
    return offers
