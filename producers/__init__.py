"""What a backend imports: the clients, what they give, and what they raise.

Names are looked up when first used, so that `darkroom --help` does not wait for clients it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from producers.aio import AsyncDarkroom
    from producers.audits import AuditEntry
    from producers.cancels import Cancelled, CancelOutcome, CancelResult
    from producers.client import Darkroom
    from producers.freezes import Freeze, Frozen
    from producers.overview import LaneStatus, Overview
    from producers.pauses import JobPause, Pause, PauseResult
    from producers.receipt import (
        BatchReceipt,
        BatchStatus,
        Dispositions,
        ItemReceipt,
        Receipt,
    )
    from producers.store_trouble import StoreTrouble
    from shared.errors import (
        BacklogFull,
        BatchNotFound,
        BatchSealed,
        ConfigurationError,
        DarkroomError,
        IdempotencyConflict,
        InvalidRequest,
        Issue,
        JobNotFound,
        StateUnavailable,
        StorageError,
        TransitionRefused,
        UnknownPrice,
    )
    from shared.jobs.disposition import Disposition
    from shared.jobs.job import Artifact, Job, TimelineEntry
    from shared.jobs.lifecycle import JobState
    from shared.jobs.request import GenerationRequest, PaletteColor
    from shared.orders import JobDefaults, JobOptions
    from shared.settings import Settings, load_settings

__all__ = [  # noqa: RUF022 - grouped by meaning: a table of contents
    # clients
    "AsyncDarkroom",
    "Darkroom",
    # what to enqueue
    "GenerationRequest",
    "JobDefaults",
    "JobOptions",
    "PaletteColor",
    # what an enqueue gives
    "BatchReceipt",
    "Disposition",
    "Dispositions",
    "ItemReceipt",
    "Receipt",
    # jobs, batches, the whole
    "Artifact",
    "AuditEntry",
    "BatchStatus",
    "CancelOutcome",
    "CancelResult",
    "Cancelled",
    "Freeze",
    "Frozen",
    "Job",
    "JobPause",
    "JobState",
    "LaneStatus",
    "Overview",
    "Pause",
    "PauseResult",
    "StoreTrouble",
    "TimelineEntry",
    # settings
    "Settings",
    "load_settings",
    # errors
    "BacklogFull",
    "BatchNotFound",
    "BatchSealed",
    "ConfigurationError",
    "DarkroomError",
    "IdempotencyConflict",
    "InvalidRequest",
    "Issue",
    "JobNotFound",
    "StateUnavailable",
    "StorageError",
    "TransitionRefused",
    "UnknownPrice",
]

_HOMES: Final = {
    "producers.aio": ("AsyncDarkroom",),
    "producers.audits": ("AuditEntry",),
    "producers.cancels": ("CancelOutcome", "CancelResult", "Cancelled"),
    "producers.client": ("Darkroom",),
    "producers.freezes": ("Freeze", "Frozen"),
    "producers.overview": ("LaneStatus", "Overview"),
    "producers.pauses": ("JobPause", "Pause", "PauseResult"),
    "producers.receipt": (
        "BatchReceipt",
        "BatchStatus",
        "Dispositions",
        "ItemReceipt",
        "Receipt",
    ),
    "producers.store_trouble": ("StoreTrouble",),
    "shared.errors": (
        "BacklogFull",
        "BatchNotFound",
        "BatchSealed",
        "ConfigurationError",
        "DarkroomError",
        "IdempotencyConflict",
        "InvalidRequest",
        "Issue",
        "JobNotFound",
        "StateUnavailable",
        "StorageError",
        "TransitionRefused",
        "UnknownPrice",
    ),
    "shared.jobs.disposition": ("Disposition",),
    "shared.jobs.job": ("Artifact", "Job", "TimelineEntry"),
    "shared.jobs.lifecycle": ("JobState",),
    "shared.jobs.request": ("GenerationRequest", "PaletteColor"),
    "shared.orders": ("JobDefaults", "JobOptions"),
    "shared.settings": ("Settings", "load_settings"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
