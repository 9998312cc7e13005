"""What a worker writes to stderr: one line per event, as JSON or for a terminal. Celery then leaves logging alone."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

from workers.log_context import add_claim
from workers.log_redaction import Redaction, secrets_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.settings import Settings

# What they say below WARNING is a line per hint or per request.
_QUIET: Final = ("celery.worker.strategy", "celery.app.trace", "httpx", "httpcore", "asyncio")


def set_up(
    settings: Settings, loglevel: int | str | None = None, logfile: str | None = None, **_: Any
) -> None:
    """Take `signals.setup_logging`. `--loglevel` on the command line wins over `log.level`."""
    level = _level(loglevel if _is_told(sys.argv) else settings.log.level)
    stamp: list[Any] = [
        add_claim,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            level
        ),  # what is not logged costs next to nothing
        processors=[
            structlog.stdlib.filter_by_level,
            *stamp,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler()
    is_terminal = logfile is None and sys.stderr.isatty()
    redaction = Redaction(secrets_of(settings))
    handler.setFormatter(_formatter(settings.log.format, stamp, redaction, is_terminal=is_terminal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _formatter(
    wanted: str, stamp: Sequence[Any], redaction: Redaction, *, is_terminal: bool
) -> logging.Formatter:
    """Render as wanted; before that nothing is left that may not be shown, whoever logged it."""
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    render: Any = structlog.processors.JSONRenderer()
    if wanted == "console" or (wanted == "auto" and is_terminal):
        render = structlog.dev.ConsoleRenderer(colors=is_terminal and not os.environ.get("NO_COLOR"))
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[redaction.merged, *stamp],
        processors=[remove, redaction, render],
        use_get_message=False,
        pass_foreign_args=True,
    )


def _is_told(words: Sequence[str]) -> bool:
    """Say whether the command line names a level: Celery gives its own default as if it had been asked for."""
    return any(word.startswith(("--loglevel", "-l")) for word in words[1:])


def _level(named: int | str | None) -> int:
    if isinstance(named, int):
        return named
    found: Any = logging.getLevelName(named or "INFO")
    return found if isinstance(found, int) else logging.INFO
