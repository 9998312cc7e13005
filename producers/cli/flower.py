"""`darkroom flower`: the jobs in a browser."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer


def flower(
    context: typer.Context,
    address: Annotated[str | None, typer.Option(help="Where it listens; by default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="By default 5555.")] = None,
    url_prefix: Annotated[
        str | None, typer.Option(metavar="PATH", help="Path below which a proxy shows it.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Start without a login, on a loopback address only.")
    ] = False,
) -> None:
    """Run Flower in this terminal: jobs, their ends and errors, and a button that cancels.

    The login is DARKROOM_FLOWER_AUTH=user:password in the environment, or where flower.basic_auth refers to. Other
    options are Flower's own, such as --certfile and --keyfile.
    """
    from producers.flower import check_port, plan_start
    from shared.errors import ConfigurationError
    from shared.settings import load_settings

    if find_spec("flower") is None:
        raise ConfigurationError("Flower is not installed. Install it with `pip install 'darkroom[flower]'`.")
    settings = load_settings()
    options = {"address": address, "port": port, "url_prefix": url_prefix, "insecure": insecure or None}
    given = {name: value for name, value in options.items() if value is not None}
    told = settings.flower.model_copy(update=given)
    start = plan_start(settings.model_copy(update={"flower": told}), context.args, os.environ)
    if not any(word.startswith(("--unix-socket", "--unix_socket")) for word in context.args):
        check_port(told)
    if not start.login:
        typer.echo(
            "darkroom: Flower runs without a login: everybody on this machine can cancel jobs", err=True
        )
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", *start.arguments], dict(start.environment))  # noqa: S606 - no shell is the point
