"""The gateway's own routes: submit, poll, balance, and the images. `sandbox.admin` has the operator's.

A submit passes, in this order: bearer key (401, 403), balance (402), rate (429), Idempotency-Key if honoured,
the request rules (400), the in-flight limit (429), faults that keep it from being accepted. What is left is
accepted, written to the journal, and will be charged; only then may a fault still spoil the answer.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING

from sandbox import generations, ledger, limits, wire
from sandbox.accounts import Account, Accounts, hash_body
from sandbox.faults import Fault, FaultBook, FaultRefused, On
from sandbox.images import png_of
from sandbox.rules import RuleBroken, read_order
from sandbox.server import Answer, Reply, Request

if TYPE_CHECKING:
    from sandbox.generations import Generation
    from sandbox.rules import Order
    from sandbox.settings import Settings

_IMAGE = re.compile(r"/f/image/(([0-9A-Z]{26})_([0-9]{1,3}))\.png")
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,255}(:[0-9]{1,5})?|\[[0-9a-fA-F:]{2,45}\](:[0-9]{1,5})?")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,191}")
_TASKS = "/v1/tasks/"


class Provider:
    """The state of the stand-in, and its answers."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: list[str],
        seed: int = 0,
        journal: ledger.Journal | None = None,
        max_tasks: int = 500_000,
        public_url: str = "",
    ) -> None:
        self.settings = settings
        self.accounts = Accounts(keys)
        self.generations = generations.Generations(max_tasks)
        self.ledger = ledger.Ledger()
        self.stats = limits.Stats()
        self.faults = FaultBook(random.Random(f"faults {seed}"))
        self._latency_rng = random.Random(f"latency {seed}")
        self._journal = journal
        self._public_url = public_url.rstrip("/")
        for generation in journal.replay() if journal else ():
            self._enter(generation)
        self.settle(time.time())

    def settle(self, now: float) -> None:
        """Charge what has ended, forget what is old."""
        for generation in self.generations.settle(now):
            self.ledger.charge(generation)
        for generation in self.generations.forget(now):
            self.ledger.forget(generation)

    def answer(self, request: Request, now: float) -> Answer | None:
        """Answer a request to one of the gateway's routes; None if it is not for one."""
        path, is_get = request.path, request.method in {"GET", "HEAD"}
        if path == "/v1/images/generations" and request.method == "POST":
            return self._submit(request, now)
        if is_get and path.startswith(_TASKS):
            return self._poll(request, now)
        if is_get and path.startswith("/f/image/"):
            return self._image(request, now)
        if is_get and path in {"/v1/balance", "/v1/user/balance"}:
            return self._balance(request)
        return None

    # -- submit

    def _submit(self, request: Request, now: float) -> Answer:
        self.ledger.submits_seen += 1
        self.stats.submits_seen.note(now)
        account = self._caller(request)
        if isinstance(account, Reply):
            return account
        if account.state == "broke":
            return wire.error(self.settings, 402)
        wait_s = account.submits.take(now, self.settings.rate_per_s, self.settings.burst)
        if wait_s:
            return self._too_many(wait_s, now)
        key = request.headers.get("idempotency-key") if self.settings.idempotency else None
        if key is None:
            return self._decide(request, account, now)[0]
        return self._once(key, request, account, now)

    def _once(self, key: str, request: Request, account: Account, now: float) -> Answer:
        if not _IDEMPOTENCY_KEY.fullmatch(key):
            return wire.error(self.settings, 400, "Idempotency-Key must be 1 to 191 visible ASCII characters")
        body_hash = hash_body(request.body)
        if earlier := account.replays.get(key):
            if earlier[0] != body_hash:
                message = "The Idempotency-Key was used for another request"
                return wire.coded_error(409, "idempotency_key_reused", message)
            return Reply(earlier[1].status, earlier[1].body, headers=(("Idempotency-Replayed", "true"),))
        answer, accepted = self._decide(request, account, now)
        if accepted is not None:
            account.remember(key, body_hash, accepted)
        return answer

    def _decide(self, request: Request, account: Account, now: float) -> tuple[Answer, Reply | None]:
        """Give the answer, and the undisturbed one if the submit was accepted."""
        order = read_order(request.body)
        if isinstance(order, RuleBroken):
            return wire.error(self.settings, 400, str(order)), None
        if 0 < self.settings.max_in_flight <= self.generations.in_flight[account.label]:
            ends_at = self.generations.next_end_at(account.label)
            return self._too_many((ends_at or now) - now, now, "Too many unfinished tasks"), None
        identity = ledger.identify(order)
        try:
            fault, outcomes = self.faults.pick("submit", identity[0], order.prompt)
        except FaultRefused as refused:
            return wire.error(self.settings, 400, f"sandbox: {refused}"), None
        if fault is not None and not fault.accept:
            return self._disturbed(fault, wire.error(self.settings, 500), now), None
        generation = self._accept(order, outcomes, account, identity, now)
        reply = wire.submit_reply(generation, self.settings.submit_shape, self._base_url(request))
        return (self._disturbed(fault, reply, now) if fault else reply), reply

    def _accept(
        self, order: Order, outcomes: list[Fault], account: Account, identity: tuple[str, str], now: float
    ) -> Generation:
        generation = generations.accept(
            order,
            outcomes,
            account=account.label,
            identity=identity,
            settings=self.settings,
            rng=self._latency_rng,
            now=now,
        )
        self.stats.faults_by_kind.update(outcome.kind for outcome in outcomes)
        if self._journal is not None:
            self._journal.append(generation)
        self._enter(generation)
        self.stats.submits_accepted.note(now)
        self.stats.note_in_flight(account.label, self.generations.in_flight[account.label])
        return generation

    def _enter(self, generation: Generation) -> None:
        self.generations.add(generation)
        self.ledger.accept(generation)

    # -- poll, images, balance

    def _poll(self, request: Request, now: float) -> Answer:
        self.stats.polls += 1
        self.stats.polls_seen.note(now)
        account = self._caller(request)
        if isinstance(account, Reply):
            return account
        wait_s = account.polls.take(now, self.settings.poll_rate_per_s, 0)
        if wait_s:
            return self._too_many(wait_s, now)
        generation = self.generations.get(request.path.removeprefix(_TASKS))
        if generation is None or generation.lost or generation.account != account.label:
            return self._maybe_disturbed("poll", None, self._unknown_task(), now)
        reply = wire.task_reply(generation, self.settings, self._base_url(request), now)
        return self._maybe_disturbed("poll", generation, reply, now)

    def _unknown_task(self) -> Reply:
        if self.settings.unknown_task_status == "400":
            return wire.error(self.settings, 400, "invalid task id")
        return wire.error(self.settings, 404, "task does not exist or has expired")

    def _image(self, request: Request, now: float) -> Answer:
        self.stats.image_gets += 1
        match = _IMAGE.fullmatch(request.path)
        if match is None:
            return wire.error(self.settings, 404)
        if request.param("sig") != wire.signature(match[1]):
            return wire.error(self.settings, 403, "The signature does not match")
        generation = self.generations.get(f"task_{match[2]}")
        if generation is None or int(match[3]) >= generation.delivered or not generation.is_done(now):
            return wire.error(self.settings, 404)
        if now >= wire.expires(generation, self.settings):
            return wire.error(self.settings, int(self.settings.expired_status), "The URL has expired")
        reply = Reply(200, png_of(generation, int(match[3]), self.settings.image_px), "image/png")
        return self._maybe_disturbed("image", generation, reply, now)

    def _balance(self, request: Request) -> Reply:
        account = self._caller(request)
        if isinstance(account, Reply):
            return wire.json_reply({"success": False, "message": "invalid API key"})
        micros = self.ledger.bill(account.label).charged_micros * wire.USD_MICROS_PER_CNY_MICRO
        used = round(micros / 1_000_000, 6)
        remains = 0 if account.state == "broke" else 1000
        return wire.json_reply(
            {
                "success": True,
                "remain_balance": remains,
                "remain_credits": remains * 10,
                "used_balance": used,
                "used_credits": round(used * 10, 6),
                "unlimited_quota": account.state != "broke",
            }
        )

    # -- what they share

    def _caller(self, request: Request) -> Account | Reply:
        account = self.accounts.find(request.headers.get("authorization", ""))
        if account is None or account.state == "invalid":
            return wire.error(self.settings, 401)
        return wire.error(self.settings, 403) if account.state == "forbidden" else account

    def _too_many(self, wait_s: float, now: float, message: str = "") -> Reply:
        return wire.error(self.settings, 429, message, wait=wire.retry_after(self.settings, wait_s, now))

    def _maybe_disturbed(self, on: On, generation: Generation | None, normal: Reply, now: float) -> Answer:
        marker, text = (generation.marker, generation.faults) if generation else ("", "")
        fault, _ = self.faults.pick(on, marker, text)
        return self._disturbed(fault, normal, now) if fault else normal

    def _disturbed(self, fault: Fault, normal: Reply, now: float) -> Answer:
        self.stats.faults_by_kind[fault.kind] += 1
        return wire.apply_fault(fault, normal, self.settings, now)

    def _base_url(self, request: Request) -> str:
        """Give the base of URLs in answers: as set, or as the client itself addressed us."""
        host = request.headers.get("host", "")
        return self._public_url or (f"http://{host}" if _HOST.fullmatch(host) else "http://localhost")
