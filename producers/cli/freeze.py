"""`darkroom freeze`: the brake. It holds for every worker, at once, until somebody lets go."""

from __future__ import annotations

from typing import Annotated

import typer

from producers.cli import selecting
from producers.cli.terminal import JsonOption, opened, print_json

What = Annotated[str, typer.Argument(metavar="spending|everything|off", help="What is to stop.")]
Why = Annotated[str, typer.Option(metavar="TEXT", help="Shown to whoever looks at `darkroom status`.")]
As = selecting.As
DryRun = selecting.DryRun
_SAID = {
    "spending": "no worker submits; polls, copies and webhooks go on",
    "everything": "no worker takes any work; the provider's URLs go on expiring",
    "off": "work goes on",
}


def freeze(
    what: What, why: Why = "", by: As = None, dry_run: DryRun = False, as_json: JsonOption = False
) -> None:
    """Stop spending, or everything, for all workers at once; `off` lets them go on.

    What a worker has begun it finishes: a POST in flight is answered and recorded. Jobs keep their order.
    """
    from producers.freezes import Frozen

    if what not in _SAID:
        raise typer.BadParameter(f"{what!r} is none of spending, everything and off")
    asked = None if what == "off" else Frozen(what)
    with opened() as darkroom:
        before = darkroom.freeze(asked, by=by, why=why, dry_run=dry_run)
    if as_json:
        print_json({"frozen": before if dry_run else asked, "before": before, "dry_run": dry_run})
        return
    said = "not frozen" if asked is None else f"frozen: {what}"
    if before == asked:
        said = f"already {said}"
    elif dry_run:
        said = f"would be {said}"
    typer.echo(f"{said}: {_SAID[what]}")
