"""The operator's routes: ledger, statistics, control. No authorization: a loopback tool, see the README."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from sandbox import limits, settings, wire
from sandbox.accounts import AccountRefused
from sandbox.faults import FaultRefused, read_rules
from sandbox.server import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.generations import Generation
    from sandbox.provider import Provider
    from sandbox.server import Answer, Reply, Request

_PAGE = 1000
_TOP_PAGE = 10_000


class Malformed(ValueError):
    """A request to an operator's route cannot be understood."""


class Front:
    """The one handler of the provider's port: the gateway's routes first, then the operator's."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._routes: dict[tuple[str, str], Callable[[Request, float], Reply]] = {
            ("GET", "/health"): lambda _request, _now: wire.json_reply({"ok": True}),
            ("GET", "/ledger"): self._ledger,
            ("GET", "/ledger/tasks"): self._ledger_tasks,
            ("GET", "/stats"): self._stats,
            ("DELETE", "/stats"): self._clear_stats,
            ("GET", "/control/settings"): self._settings,
            ("POST", "/control/settings"): self._change_settings,
            ("GET", "/control/faults"): self._rules,
            ("POST", "/control/faults"): self._replace_rules,
            ("DELETE", "/control/faults"): self._clear_rules,
        }

    def handle(self, request: Request) -> Answer:
        provider, now = self._provider, time.time()
        provider.settle(now)
        answer = provider.answer(request, now) or self._operate(request, now)
        provider.stats.http_requests += 1
        provider.stats.answers_by_status[status_of(answer)] += 1
        return answer

    def _operate(self, request: Request, now: float) -> Reply:
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, request.path))
        if route is None:
            return wire.error(self._provider.settings, 404, "No such route")
        try:
            return route(request, now)
        except (Malformed, FaultRefused, AccountRefused, settings.SettingRefused) as refused:
            return wire.json_reply({"error": str(refused)}, 400)

    def _ledger(self, request: Request, now: float) -> Reply:
        provider = self._provider
        summary: dict[str, object] = provider.ledger.totals() | {
            "in_flight": sum(provider.generations.in_flight.values()),
            "read_at": now,
        }
        if request.param("summary") in {"1", "true"}:
            return wire.json_reply(summary)
        return wire.json_reply(summary | {"groups": provider.ledger.groups(request.param("marker"))})

    def _ledger_tasks(self, request: Request, now: float) -> Reply:
        limit = _whole(request.param("limit") or str(_PAGE), most=_TOP_PAGE)
        wanted = {
            name: value
            for name in ("prompt_sha256", "marker", "account")
            if (value := request.param(name)) is not None
        }
        rows: list[dict[str, object]] = []
        for generation in self._after(request.param("after")):
            if any(getattr(generation, name) != value for name, value in wanted.items()):
                continue
            if len(rows) == limit:
                return wire.json_reply({"tasks": rows, "next": rows[-1]["task_id"]})
            rows.append(_row(generation, now))
        return wire.json_reply({"tasks": rows, "next": None})

    def _after(self, task_id: str | None) -> Iterator[Generation]:
        """Give the generations accepted after `task_id`, or all; oldest first."""
        every = iter(self._provider.generations)
        if task_id is not None:
            if self._provider.generations.get(task_id) is None:
                raise Malformed("after: no such task")
            for generation in every:
                if generation.id == task_id:
                    break
        return every

    def _stats(self, _request: Request, _now: float) -> Reply:
        provider = self._provider
        return wire.json_reply(provider.stats.as_json(dict(provider.generations.in_flight)))

    def _clear_stats(self, request: Request, now: float) -> Reply:
        self._provider.stats = limits.Stats()
        return self._stats(request, now)

    def _settings(self, _request: Request, _now: float) -> Reply:
        provider = self._provider
        return wire.json_reply(
            settings.describe(provider.settings) | {"accounts": provider.accounts.states()}
        )

    def _change_settings(self, request: Request, now: float) -> Reply:
        wanted = _json(request)
        states = wanted.pop("api_keys", {})
        if not isinstance(states, dict):
            raise Malformed("api_keys must be an object")
        provider = self._provider
        provider.accounts.check(states)
        settings.change(provider.settings, wanted)
        provider.accounts.change(states)
        return self._settings(request, now)

    def _rules(self, _request: Request, _now: float) -> Reply:
        return wire.json_reply({"rules": [rule.as_json() for rule in self._provider.faults.rules]})

    def _replace_rules(self, request: Request, now: float) -> Reply:
        self._provider.faults.rules = read_rules(_json(request))
        return self._rules(request, now)

    def _clear_rules(self, request: Request, now: float) -> Reply:
        self._provider.faults.rules = []
        return self._rules(request, now)


def _json(request: Request) -> dict[str, object]:
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Malformed("expected a JSON object")
    return document


def _whole(text: str, *, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise Malformed(f"limit must be a whole number of 1 to {most}")
    return int(text)


def _row(generation: Generation, now: float) -> dict[str, object]:
    is_done = generation.is_done(now)
    images = generation.delivered if is_done and generation.end == "completed" else 0
    return {
        "task_id": generation.id,
        "marker": generation.marker,
        "prompt_sha256": generation.prompt_sha256,
        "prompt": generation.caption,
        "account": generation.account,
        "model": generation.model,
        "n": generation.n,
        "status": generation.end if is_done else "processing",
        "lost": generation.lost,
        "created_at": generation.created_at,
        "done_at": None if generation.end == "never" else generation.done_at,
        "charged_images": images,
        "charged_micros": images * generation.price_micros,
    }
