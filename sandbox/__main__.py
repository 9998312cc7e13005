"""`python -m sandbox provider | sink | all`: start, print one JSON line with the URLs, run until a signal."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from sandbox import settings
from sandbox.admin import Front
from sandbox.ledger import Journal
from sandbox.provider import Provider
from sandbox.server import Server
from sandbox.sink import SecretRefused, Sink

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIB = 1024 * 1024
_PORT_MAX = 65_535


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    provider = commands.add_parser("provider", help="the stand-in for the image gateway")
    sink = commands.add_parser("sink", help="the webhook consumer")
    both = commands.add_parser("all", help="both, on two ports")
    for command in (provider, sink, both):
        command.add_argument("--host", default="127.0.0.1")
        command.add_argument("--port", type=_port, default=0, help="0 = any free port (default)")
    both.add_argument("--sink-port", type=_port, default=0, help="0 = any free port (default)")
    for command in (provider, both):
        _add_provider_options(command)
    for command in (sink, both):
        command.add_argument("--secret", action="append", default=[], help="whsec_...; repeatable")
        command.add_argument(
            "--secret-env", metavar="NAME", help="environment variable with secrets, separated by spaces"
        )
    return parser


def _port(text: str) -> int:
    """Read a port. uvloop takes any number, and listens at its last 16 bits."""
    if not 0 <= (port := int(text)) <= _PORT_MAX:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {_PORT_MAX}")
    return port


def _add_provider_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--api-key", action="append", help="accepted key, an account each; repeatable (default sandbox-key)"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of latencies and of faults by chance")
    command.add_argument(
        "--ledger", type=Path, metavar="FILE", help="journal of accepted tasks, replayed at start"
    )
    command.add_argument(
        "--max-tasks", type=int, default=500_000, help="finished tasks go, oldest first, beyond this"
    )
    command.add_argument("--max-body-mib", type=int, default=256, help="larger request bodies get 413")
    command.add_argument("--public-url", default="", help="base of URLs in answers (default: the Host asked)")
    settings.add_options(command)


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    servers: list[Server] = []
    urls: dict[str, str] = {}
    if options.command in {"provider", "all"}:
        servers.append(Server(Front(_provider(options)).handle, max_body_bytes=options.max_body_mib * _MIB))
        urls["provider"] = await servers[-1].start(options.host, options.port)
    if options.command in {"sink", "all"}:
        port = options.sink_port if options.command == "all" else options.port
        servers.append(Server(Sink(_secrets(options)).handle, max_body_bytes=_MIB))
        urls["sink"] = await servers[-1].start(options.host, port)
    print(json.dumps(urls), flush=True)
    await stop.wait()
    for server in servers:
        await server.close()


def _provider(options: argparse.Namespace) -> Provider:
    return Provider(
        settings.from_options(vars(options)),
        keys=options.api_key or ["sandbox-key"],
        seed=options.seed,
        journal=Journal(options.ledger) if options.ledger else None,
        max_tasks=options.max_tasks,
        public_url=options.public_url,
    )


def _secrets(options: argparse.Namespace) -> list[str]:
    named = os.environ.get(options.secret_env, "").split() if options.secret_env else []
    if options.secret_env and not named:
        raise SecretRefused(f"the environment variable {options.secret_env} holds no secret")
    return [*options.secret, *named]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(options))
    except (OSError, OverflowError, ValueError) as problem:
        print(f"sandbox: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
