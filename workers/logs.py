"""What a worker writes to stderr: one line per event, as JSON or for a terminal. Celery then leaves logging alone."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.settings_surface import LogSettings

# What they say below WARNING is a line per hint or per request.
_QUIET: Final = ("celery.worker.strategy", "celery.app.trace", "httpx", "httpcore", "asyncio")


def set_up(
    settings: LogSettings, loglevel: int | str | None = None, logfile: str | None = None, **_: Any
) -> None:
    """Take `signals.setup_logging`. `--loglevel` on the command line wins over `log.level`."""
    level = _level(loglevel if _is_told(sys.argv) else settings.level)
    stamp: list[Any] = [
        structlog.contextvars.merge_contextvars,
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
    handler.setFormatter(_formatter(settings.format, stamp, is_terminal=is_terminal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _formatter(wanted: str, stamp: Sequence[Any], *, is_terminal: bool) -> logging.Formatter:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    render: list[Any]
    if wanted == "console" or (wanted == "auto" and is_terminal):
        # plain_traceback: one with locals would show prompts
        formatter = structlog.dev.plain_traceback
        colors = is_terminal and not os.environ.get("NO_COLOR")
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=formatter)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=stamp, processors=[remove, *render])


def _is_told(words: Sequence[str]) -> bool:
    """Say whether the command line names a level: Celery gives its own default as if it had been asked for."""
    return any(word.startswith(("--loglevel", "-l")) for word in words[1:])


def _level(named: int | str | None) -> int:
    if isinstance(named, int):
        return named
    found: Any = logging.getLevelName(named or "INFO")
    return found if isinstance(found, int) else logging.INFO
