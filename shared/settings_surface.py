"""Settings of what people and other systems look at: Flower, the door, metrics, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.settings_section import SecretReference, Section


class FlowerSettings(Section):
    """What Flower is told."""

    events: bool = Field(True, description="job events; off costs nothing")
    max_per_s: int = Field(2000, ge=1, description="more are dropped and counted")
    url: str | None = Field(None, description="where this stack's Flower answers; shown by status commands")
    basic_auth: SecretReference = Field(
        SecretReference(env="DARKROOM_FLOWER_AUTH"),
        description="login for `darkroom flower`: `user:password`, several parted by commas",
    )
    insecure: bool = Field(
        False, description="let Flower start without a login, on a loopback address only: it can cancel jobs"
    )
    address: str = Field("127.0.0.1", description="where `darkroom flower` listens")
    port: int = Field(5555, ge=1, le=65_535, description="where `darkroom flower` listens")
    url_prefix: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._~/-]+$", description="path below which a proxy shows Flower"
    )
    max_tasks: int = Field(
        50_000, ge=1, description="rows that Flower keeps: about 5.5 KB of memory each, the oldest go first"
    )
    purge_offline_s: int = Field(3600, ge=1, description="a worker that is gone leaves the list after this")
    history: Literal["off"] | Path | None = Field(
        None,
        description="file that keeps Flower's list over restarts, or off; unset: in this user's state directory",
    )
    history_save_s: float = Field(
        300, gt=0, description="Flower answers nobody while it saves, about 1 s for 20,000 rows"
    )


class DoorSettings(Section):
    """The door for Celery-native producers: `send_task("generate_image")`. See docs/celery-door.md."""

    enabled: bool = Field(False, description="a request in a message may be lost until its record exists")


class MetricsSettings(Section):
    """Where Prometheus finds metrics. See docs/metrics.md."""

    address: str = Field("127.0.0.1", description="where they are served; 0.0.0.0 in a container")
    worker_port: int = Field(0, ge=0, le=65_535, description="of each worker's /metrics; 0: none is served")
    exporter_port: int = Field(9109, ge=0, le=65_535, description="of `darkroom exporter`; 0: a free one")


class LogSettings(Section):
    """What workers write to stderr, one line per event. Never a prompt, a URL's query or a secret."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING",
        description="INFO: each attempt of submit, store and notify; DEBUG: polls, too. --loglevel wins",
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal, json elsewhere"
    )
