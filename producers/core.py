"""What both edges share, without any I/O: judging, pricing and encoding a job; reading the script's answers."""

from __future__ import annotations

import getpass
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from producers.receipt import Receipt
from shared.errors import InvalidRequest, Issue, JobNotFound, TransitionRefused
from shared.jobs.disposition import Disposition
from shared.jobs.transition import Applied
from shared.orders import Orders

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.orders import Order
    from shared.settings import Settings

_DAY_S: Final = 86_400
_HOUR_S: Final = 3600
GENERATION_ID_MAX: Final = 256


class Core(Orders):
    """Settings, and what follows from them for producers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.retention = f"record kept for {_span(settings.limits.retain_jobs_s)} after the job ends"

    def receipt(self, order: Order, reply: list[int | bytes]) -> Receipt:
        """Read the script's answer. Raises IdempotencyConflict, BacklogFull, BatchSealed."""
        placed = self.placed(order, reply)
        return Receipt(
            job_id=placed.job_id,
            disposition=Disposition.ENQUEUED if placed.result == "enqueued" else Disposition.DUPLICATE,
            warnings=order.warnings,
            price_micros=order.price_micros,
            currency=order.currency,
            retention=self.retention,
        )

    @property
    def resubmit_wait_ms(self) -> int:
        """How long after the intent its POST may still be in flight."""
        worker = self.settings.worker
        return int((worker.submit_timeout_s + worker.resubmit_after_s) * 1000)


def needs_clock(options: Mapping[str, Any]) -> bool:
    """Say whether an option counts from now."""
    return any(isinstance(options.get(name), timedelta | str) for name in ("not_before", "deadline"))


def check_generation_id(generation_id: object) -> str:
    """Raise InvalidRequest unless it can be the provider's id of a generation."""
    plain = isinstance(generation_id, str) and 1 <= len(generation_id) <= GENERATION_ID_MAX
    if (
        plain
        and str(generation_id).isascii()
        and str(generation_id).isprintable()
        and " " not in str(generation_id)
    ):
        return str(generation_id)
    rule = f"generation_id must be 1-{GENERATION_ID_MAX} printable characters without spaces"
    raise InvalidRequest((Issue("generation_id", "format", rule),))


def check_applied(job_id: str, applied: Applied | None, generation_id: str = "") -> None:
    """Raise for a plan that the record did not take."""
    match applied:
        case Applied.MISSING:
            raise JobNotFound(job_id)
        case Applied.GENERATION_TAKEN:
            raise TransitionRefused(
                f"generation {generation_id} belongs to another job. Look at the provider's list of generations again."
            )
        case _:
            return


def whoami() -> str:
    """Name the person at this terminal, for the timeline: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _span(seconds: int) -> str:
    for unit_s, unit in ((_DAY_S, "day"), (_HOUR_S, "hour")):
        if seconds >= unit_s and seconds % unit_s == 0:
            count = seconds // unit_s
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} s"
