"""A broker's message that is none: dropped and told, where kombu and Celery end the worker.

Whoever may write to the broker can put anything into a queue. Hints may be lost by design, so what cannot be read as a
message is one that was lost. Errors of the connection are not touched: Celery connects again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, SentinelChannel, SentinelTransport, Transport

log = structlog.get_logger(__name__)

# What reading it raises in kombu and Celery, wherever its shape is first relied upon.
_MALFORMED: Final = (AttributeError, LookupError, TypeError, ValueError, RecursionError)


class WaryChannel(Channel):
    """Redis or Valkey; drops what is no JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # kombu's types do not know it
        except (ValueError, RecursionError) as error:
            _tell(error)
            return True


class WarySentinelChannel(WaryChannel, SentinelChannel):
    """The same behind Sentinel."""


class WaryTransport(Transport):
    """Redis or Valkey, with or without TLS; drops what is JSON, and no message of Celery's."""

    Channel = WaryChannel

    def _deliver(self, message: Any, queue: Any) -> None:
        try:
            if not isinstance(message["properties"]["delivery_tag"], str):
                raise TypeError("no delivery tag")
            super()._deliver(message, queue)
        except _MALFORMED as error:
            _tell(error, queue)
            self._drop(message)

    def _drop(self, message: Any) -> None:
        """Acknowledge what a channel has taken already: else it would hold a place, and come again."""
        properties = message.get("properties") if isinstance(message, dict) else None
        tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
        if not isinstance(tag, str):
            return
        channels: Any = self.channels
        for channel in channels:
            with suppress(KeyError):
                channel.qos.get(tag)
                channel.basic_reject(tag, requeue=False)


class WarySentinelTransport(WaryTransport, SentinelTransport):
    """The same behind Sentinel."""

    Channel = WarySentinelChannel


def install() -> None:
    """Have every broker connection of this process read so."""
    wary = f"{__name__}:{WaryTransport.__name__}"
    TRANSPORT_ALIASES.update(redis=wary, rediss=wary, sentinel=f"{__name__}:{WarySentinelTransport.__name__}")


def _tell(error: Exception, queue: str = "") -> None:
    log.warning("broker_message_dropped", queue=queue, cause=type(error).__name__)
