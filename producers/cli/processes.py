"""Commands that become another process: worker, sandbox."""

import os
import sys
from importlib.util import find_spec

import typer


def worker(context: typer.Context) -> None:
    """Run a worker in this terminal. Options are Celery's, such as --concurrency 8 or --loglevel INFO."""
    _become("celery", "-A", "workers.app", "worker", "-P", "threads", *context.args)


def sandbox(context: typer.Context) -> None:
    """Run a part of the sandbox, the stand-in for the provider: provider or sink, with its options."""
    from shared.errors import ConfigurationError

    missing = [name for name in ("sandbox", "httptools", "PIL") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the sandbox needs {', '.join(missing)}. Install it with `pip install 'darkroom[sandbox]'`."
        )
    _become("sandbox", *context.args)


def _become(module: str, *arguments: str) -> None:
    """Replace this process, so that signals reach the one that works."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell is the point
