"""`darkroom cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from producers.cli.terminal import JsonOption, for_each, opened, report

if TYPE_CHECKING:
    from producers import CancelResult

_MEANING = {
    "free": "cancelled, free",
    "billed_later": "cancelled; its submit had begun, so it is settled when the provider is done",
    "billed": "cancelled; its images were made already, and are billed",
    "already_ended": "had ended already",
}


def cancel(
    jobs: Annotated[list[str], typer.Argument(help="Job ids.", metavar="JOB...")], as_json: JsonOption = False
) -> None:
    """Cancel jobs: free before their submit; after it their owner is rid of them, and the provider's work is billed."""
    from producers.core import whoami

    with opened() as darkroom:
        done = for_each(jobs, lambda job_id: darkroom.cancel(job_id, by=whoami()))
    results = [{"job": job_id, "outcome": each.outcome, "state": each.job.state} for job_id, each in done]
    report(jobs, results, [_line(job_id, each) for job_id, each in done], as_json)


def _line(job_id: str, result: CancelResult) -> str:
    state = f" ({result.job.state})" if result.outcome == "already_ended" else ""
    return f"{job_id}: {_MEANING[result.outcome]}{state}"
