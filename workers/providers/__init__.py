"""Providers: what is asked of them, and what their answers mean for a job.

base        the protocol that the stages know
outcomes    what an answer can mean: values, matched exhaustively
classify    the rules from an answer to its meaning, pure
answer      reading an answer without trusting it, pure
generation  the generation inside an answer: id, state, images, pure
gateway     the apimart-style gateway
"""

from __future__ import annotations

from workers.providers.base import Provider
from workers.providers.gateway import GatewayProvider
from workers.providers.outcomes import (
    Accepted,
    Ambiguous,
    BlockCause,
    LaneBlocked,
    Missing,
    NotExecuted,
    NotSent,
    PollBlocked,
    PollOutcome,
    PollThrottled,
    PollUnclear,
    ProviderFailed,
    Refused,
    ResultImage,
    Running,
    SubmitOutcome,
    Succeeded,
    Throttled,
    Unsendable,
)

__all__ = [
    "Accepted",
    "Ambiguous",
    "BlockCause",
    "GatewayProvider",
    "LaneBlocked",
    "Missing",
    "NotExecuted",
    "NotSent",
    "PollBlocked",
    "PollOutcome",
    "PollThrottled",
    "PollUnclear",
    "Provider",
    "ProviderFailed",
    "Refused",
    "ResultImage",
    "Running",
    "SubmitOutcome",
    "Succeeded",
    "Throttled",
    "Unsendable",
]
