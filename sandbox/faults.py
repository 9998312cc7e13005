"""Faults: which there are, how a prompt or a rule asks for them, and when one fires.

In a prompt: `[[fault:KIND]]`, `[[fault:KIND:ARG]]`, `[[fault:KIND:ARG;times=3;on=poll;accept=1;status=503]]`.
At runtime: the same as JSON rules, with `probability`, `nth` and `marker` besides. A misspelt fault is refused,
never ignored: a demo of a fault that does not happen proves nothing.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping

On = Literal["submit", "poll", "image"]
_ONS: dict[str, On] = {"submit": "submit", "poll": "poll", "image": "image"}
_FAULT = re.compile(r"\[\[fault:([a-z0-9_]+)(?::([^\];]*))?((?:;[a-z]+=[^\];]*)*)\]\]")
_OPENING = "[[fault:"
_COUNTS_KEPT = 100_000
_MAX_TIMES = 1_000_000


class FaultRefused(ValueError):
    """No such fault, or not like this."""


def _nothing(text: str) -> bool:
    return not text


def _anything(_text: str) -> bool:
    return True


def _something(text: str) -> bool:
    return bool(text)


def _seconds(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) is not None


def _whole(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,3}", text) is not None


def _retry_after(text: str) -> bool:
    return not text or _seconds(text.removeprefix("date:"))


def _end_of_connection(text: str) -> bool:
    return text in {"", "reset"}


def _http_status(text: str) -> bool:
    return not text or re.fullmatch(r"[2-5][0-9][0-9]", text) is not None


# What happens to the answer, on any request (`refuse` on submits only). The value says which arguments it takes.
WIRE: dict[str, Callable[[str], bool]] = {
    "lost_answer": _end_of_connection,
    "hang": _nothing,
    "slow": _seconds,
    "cut": _nothing,
    "garbage": _nothing,
    "empty": _nothing,
    "html": _http_status,
    "redirect": _something,
    "code": _something,
    "build_request_failed": _nothing,
    "refuse": _anything,
}
# What becomes of the accepted generation; on submits only.
OUTCOME: dict[str, Callable[[str], bool]] = {
    "fail": _anything,
    "cancel": _nothing,
    "partial": _whole,
    "no_images": _nothing,
    "lost_task": _nothing,
    "never": _nothing,
    "status": _something,
    "takes": _seconds,
    "url_ttl": _seconds,
}
_ACCEPTED = {"lost_answer", "hang", "slow", "cut", "garbage", "empty"}
_NEEDS_ANSWER = {"slow", "cut"}


@dataclass(frozen=True, slots=True)
class Fault:
    """`times`: fires for the first so many requests, 0 = always. `accept`: whether a submit counts all the same."""

    kind: str
    arg: str = ""
    on: On = "submit"
    times: int = 0
    accept: bool = False
    status: int = 0

    @property
    def is_outcome(self) -> bool:
        return self.kind in OUTCOME


def make_fault(kind: str, arg: str, options: Mapping[str, object]) -> Fault:
    """Build a fault from text or JSON. Raises `FaultRefused`."""
    is_status = re.fullmatch(r"[45][0-9][0-9]", kind) is not None
    takes = _retry_after if is_status else WIRE.get(kind) or OUTCOME.get(kind)
    if takes is None:
        raise FaultRefused(f"unknown fault {kind!r}")
    if not takes(arg):
        raise FaultRefused(f"fault {kind!r} does not take {arg!r}")
    on = _ONS.get(str(options.get("on", "submit")))
    if on is None or (on != "submit" and (kind in OUTCOME or kind == "refuse")):
        raise FaultRefused(f"fault {kind!r} cannot be on {options.get('on')!r}")
    accepts = kind in _ACCEPTED or (kind == "html" and (arg or "200") < "400")
    accept = _flag(options.get("accept", accepts))
    if kind in _NEEDS_ANSWER and not accept:
        raise FaultRefused(f"fault {kind!r} needs an accepted request")
    times = _number(options.get("times", 0), "times", _MAX_TIMES)
    return Fault(kind, arg, on, times, accept, _number(options.get("status", 0), "status", 599))


def _flag(raw: object) -> bool:
    if raw in (True, "1"):
        return True
    if raw in (False, "0"):
        return False
    raise FaultRefused("accept must be 0 or 1 (in JSON true or false)")


def _number(raw: object, name: str, most: int) -> int:
    text = str(raw)
    if isinstance(raw, bool) or not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise FaultRefused(f"{name} must be a whole number of at most {most}")
    return int(text)


@lru_cache(maxsize=4096)
def read_markers(text: str) -> tuple[tuple[str, Fault], ...]:
    """Give the faults that a prompt asks for, each with its own text. Raises `FaultRefused`."""
    if _OPENING not in text:
        return ()
    found = tuple((match[0], _from_match(match)) for match in _FAULT.finditer(text))
    if len(found) != text.count(_OPENING):
        raise FaultRefused("a [[fault:...]] marker cannot be read")
    return found


def _from_match(match: re.Match[str]) -> Fault:
    options = dict(pair.split("=", 1) for pair in match[3].split(";") if pair)
    if unknown := options.keys() - {"times", "on", "accept", "status"}:
        raise FaultRefused(f"unknown option {min(unknown)!r} in a [[fault:...]] marker")
    return make_fault(match[1], match[2] or "", options)


@dataclass(slots=True)
class Rule:
    """A fault that fires by itself: for every request it matches, or the `nth`, or by chance."""

    fault: Fault
    probability: float = 1.0
    nth: int = 0
    marker: str = ""
    seen: int = 0
    fired: int = 0

    def fires(self, on: On, marker: str, rng: random.Random) -> bool:
        if on != self.fault.on or (self.marker and self.marker != marker):
            return False
        if self.fault.times and self.fired >= self.fault.times:
            return False
        self.seen += 1
        if (self.nth and self.seen != self.nth) or rng.random() >= self.probability:
            return False
        self.fired += 1
        return True

    def as_json(self) -> dict[str, object]:
        fault = self.fault
        return {
            "on": fault.on,
            "kind": fault.kind,
            "arg": fault.arg,
            "times": fault.times,
            "accept": fault.accept,
            "status": fault.status,
            "probability": self.probability,
            "nth": self.nth,
            "marker": self.marker,
            "seen": self.seen,
            "fired": self.fired,
        }


_RULE_KEYS = {"on", "kind", "arg", "times", "accept", "status", "probability", "nth", "marker"}


def read_rules(document: object) -> list[Rule]:
    """Read `{"rules": [...]}`. Raises `FaultRefused`."""
    rules = document.get("rules") if isinstance(document, dict) else None
    if not isinstance(rules, list):
        raise FaultRefused('expected {"rules": [...]}')
    return [_rule(fields) for fields in rules]


def _rule(fields: object) -> Rule:
    if not isinstance(fields, dict) or fields.keys() - _RULE_KEYS:
        raise FaultRefused(f"a rule is an object of {', '.join(sorted(_RULE_KEYS))}")
    probability = fields.get("probability", 1)
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise FaultRefused("probability must be 0 to 1")
    fault = make_fault(str(fields.get("kind", "")), str(fields.get("arg", "")), fields)
    nth = _number(fields.get("nth", 0), "nth", _MAX_TIMES)
    return Rule(fault, float(probability), nth, str(fields.get("marker", "")))


@dataclass(slots=True)
class FaultBook:
    """Decides which faults a request meets, and remembers how often each has fired."""

    rng: random.Random
    rules: list[Rule] = field(default_factory=list)
    _fired: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    def pick(self, on: On, marker: str, prompt: str) -> tuple[Fault | None, list[Fault]]:
        """Give the wire fault (the prompt's before the rules') and all outcomes. Raises `FaultRefused`."""
        wire: Fault | None = None
        outcomes: list[Fault] = []
        for fault, fires in self._candidates(on, marker, prompt):
            if fault.is_outcome and fires():
                outcomes.append(fault)
            elif wire is None and not fault.is_outcome and fires():
                wire = fault
        return wire, outcomes

    def _candidates(self, on: On, marker: str, prompt: str) -> Iterator[tuple[Fault, Callable[[], bool]]]:
        """Give each fault with the question whether it fires now; asking counts."""
        for text, fault in read_markers(prompt):
            if fault.on == on:
                yield fault, partial(self._count, fault, (marker, text))
        for rule in self.rules:
            yield rule.fault, partial(rule.fires, on, marker, self.rng)

    def _count(self, fault: Fault, key: tuple[str, str]) -> bool:
        """Say whether a fault of a prompt still fires, and count it if it is limited."""
        if not fault.times:
            return True
        fired = self._fired.pop(key, 0)
        self._fired[key] = fired + (fired < fault.times)
        if len(self._fired) > _COUNTS_KEPT:
            self._fired.popitem(last=False)
        return fired < fault.times
