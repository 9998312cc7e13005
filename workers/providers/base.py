"""What a provider is to the stages: requests out of jobs, meaning out of replies. No network, no clock, no Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.http.port import HttpFailure, HttpRequest, HttpResponse
    from workers.providers.outcomes import PollOutcome, SubmitOutcome


class Provider(Protocol):
    """One account at one provider. Neither its repr nor that of anything it gives shows the key."""

    def submit_request(
        self, wire: Mapping[str, object], *, idempotency_key: str, deadline_s: float
    ) -> HttpRequest:
        """Build the billed POST. `wire` is the job's canonical request, data URIs inlined."""
        ...

    def submit_outcome(self, reply: HttpResponse | HttpFailure) -> SubmitOutcome:
        """Say what became of the POST. Never raises."""
        ...

    def poll_request(self, generation_id: str, *, deadline_s: float) -> HttpRequest:
        """Build the question where a generation is; free, and may be repeated."""
        ...

    def poll_outcome(self, reply: HttpResponse | HttpFailure, generation_id: str) -> PollOutcome:
        """Say where the generation that was asked about is. Never raises."""
        ...
