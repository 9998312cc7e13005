"""What a provider's answer means for a job: values, matched exhaustively by the stages.

`cause` is a short stable word for logs, metrics and operators. `message` and `detail` are the provider's own text:
one line, at most MESSAGE_CHARS long, without control characters and without our key. What becomes of the job in each
case is the table of docs/design.md; these types only say what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MESSAGE_CHARS: Final = 300
ANOTHER_GENERATION: Final = "another_generation"  # cause of an answer that is not about what was asked


class BlockCause(StrEnum):
    """Why an account, not a job, is refused. Somebody has to act before a lane works again."""

    INVALID_API_KEY = "invalid_api_key"
    PAYMENT_REQUIRED = "payment_required"
    FORBIDDEN = "forbidden"
    BILLING = "billing"
    WRONG_ENDPOINT = "wrong_endpoint"
    REDIRECTED = "redirected"


# --- a submit


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took it and will bill what it delivers. `generation_id` is printable and opaque."""

    generation_id: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """Proved: no byte reached the provider."""

    cause: str


@dataclass(frozen=True, slots=True)
class Unsendable:
    """Proved: no byte was sent, and none ever will be: our own HTTP client does not take this request."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Throttled:
    """Not accepted: the lane is too fast. `retry_after_s` is as the provider said, not clamped."""

    cause: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """Not accepted, by a code that is known to say so, and may be tried again."""

    cause: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class LaneBlocked:
    """Not accepted, and no other job of this account would be."""

    cause: BlockCause
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Not accepted, and this request never will be."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """It may have been accepted and billed. Never to be sent again blindly.

    `generation_id` is what an error names in spite of itself, or several ids with a space between: kept for whoever
    resolves the job.
    """

    cause: str
    generation_id: str = ""


SubmitOutcome = Accepted | NotSent | Unsendable | Throttled | NotExecuted | LaneBlocked | Refused | Ambiguous


# --- a poll


@dataclass(frozen=True, slots=True)
class ResultImage:
    """One image, in the provider's order. `expires_at_ms` is unix milliseconds; None if the provider did not say."""

    url: str
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """Not done. `status` is the provider's word, known or not; `progress` is 0 to 100."""

    status: str
    progress: int | None = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Done. There may be fewer images than asked for, or none.

    `provider_cost` is decimal text in the provider's currency: evidence, never our bill. `created_s` and
    `completed_s` are unix seconds by the provider's clock.
    """

    images: tuple[ResultImage, ...] = ()
    provider_cost: str | None = None
    created_s: float | None = None
    completed_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderFailed:
    """Done, without images and without a bill. `code` is `cancelled` if the provider says so."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """The provider does not know the generation: just submitted, or expired."""

    cause: str


@dataclass(frozen=True, slots=True)
class PollThrottled:
    """Polls are too fast. `retry_after_s` is as the provider said, not clamped."""

    cause: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class PollBlocked:
    """The account may not ask."""

    cause: BlockCause


@dataclass(frozen=True, slots=True)
class PollUnclear:
    """No usable answer. Asking again is free."""

    cause: str


PollOutcome = Running | Succeeded | ProviderFailed | Missing | PollThrottled | PollBlocked | PollUnclear
