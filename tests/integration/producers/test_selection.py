"""Selecting jobs by criteria, against a real state server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from producers.cli.selecting import selection_of
from producers.selection import CHUNK_JOBS, Picked, Selection, Walk, connected, parse_age
from shared.errors import BatchNotFound, InvalidRequest
from shared.jobs.lifecycle import JobState
from tests.integration.producers.conftest import FOX, LANE, MODEL

if TYPE_CHECKING:
    from producers import Darkroom
    from tests.conftest import State
    from tests.integration.producers.conftest import FakeWorker

HOUR_MS = 3_600_000


def walk(state: State, **criteria: Any) -> set[str]:
    return {job.id for job in picked(state, **criteria)}


def picked(state: State, **criteria: Any) -> list[Picked]:
    chunks = Walk(state.client, state.settings, Selection(**criteria)).chunks()
    return [job for chunk in chunks for job in chunk]


def test_criteria_narrow_each_other(state: State, darkroom: Darkroom, worker: FakeWorker) -> None:
    """Ids, batch, tenant, model, lane, state and code: a job is selected if all that are given hold."""
    failed = darkroom.enqueue(FOX).job_id
    assert worker.claim() == [failed]
    worker.fail(failed)
    darkroom.enqueue_many([FOX] * 3, batch="b")
    other = darkroom.enqueue(FOX, tenant="acme", batch="b").job_id
    assert len(walk(state)) == 5
    assert len(walk(state, batch="b")) == 3
    assert walk(state, batch="b", tenant="acme") == walk(state, tenant="acme") == {other}
    assert walk(state, states=frozenset({JobState.FAILED})) == walk(state, lane=LANE) == {failed}
    assert walk(state, codes=frozenset({"refused"}), model=MODEL) == {failed}
    assert walk(state, codes=frozenset({"refused"}), tenant="acme") == set()
    assert walk(state, ids=(failed, other), tenant="acme") == {other}
    assert walk(state, ids=(other,), states=frozenset({JobState.FAILED})) == set()


def test_ages_are_of_the_creation_or_the_end(state: State, darkroom: Darkroom, worker: FakeWorker) -> None:
    """A job that has not ended has no age of its end."""
    old, ended, young = (darkroom.enqueue(FOX).job_id for _ in range(3))
    assert worker.claim(2) == [old, ended]
    worker.fail(ended)
    now_ms = darkroom.now_ms()
    state.client.hset(state.keys.job(old), "created_at", now_ms - 5 * HOUR_MS)
    state.client.hset(state.keys.job(ended), "finished_at", now_ms - 3 * HOUR_MS)
    assert walk(state, older_ms=4 * HOUR_MS) == {old}
    assert walk(state, newer_ms=4 * HOUR_MS) == {ended, young}
    assert walk(state, older_ms=2 * HOUR_MS, age_of="ended") == {ended}
    assert walk(state, older_ms=0, newer_ms=2 * HOUR_MS, age_of="ended") == set()


def test_a_walk_goes_in_chunks_and_sees_each_job_once(state: State, darkroom: Darkroom) -> None:
    """More jobs than a chunk and than one SCAN, by SCAN and by the batch's list; progress ends at the whole."""
    count = 2 * CHUNK_JOBS + 7
    ids = {each.job_id for each in darkroom.enqueue_many([FOX] * count, batch="big").items}
    for criteria in (Selection(), Selection(batch="big"), Selection(ids=tuple(str(each) for each in ids))):
        told: list[tuple[int, int]] = []
        walking = Walk(
            state.client, state.settings, criteria, progress=lambda *at, told=told: told.append(at)
        )
        chunks = list(walking.chunks())
        assert [len(chunk) for chunk in chunks] == [CHUNK_JOBS, CHUNK_JOBS, 7]
        assert {job.id for chunk in chunks for job in chunk} == ids
        assert told[-1][0] == told[-1][1]


def test_ids_without_a_record_are_named(state: State, darkroom: Darkroom) -> None:
    """A wrong id is not silently left out; an id given twice is one job; a batch that is not there is an error."""
    job_id = darkroom.enqueue(FOX).job_id
    walking = Walk(state.client, state.settings, Selection(ids=(job_id, "job_none", job_id)))
    assert [[job.id for job in chunk] for chunk in walking.chunks()] == [[job_id]]
    assert walking.missing == ["job_none"]
    with pytest.raises(BatchNotFound):
        walk(state, batch="none")


def test_a_walk_reads_more_fields_when_asked(state: State, darkroom: Darkroom) -> None:
    """They are there as the record has them."""
    darkroom.enqueue(FOX)
    with connected(state.settings) as client:
        ((job,),) = Walk(client, state.settings, Selection(), more=("n", "hold")).chunks()
    assert (job.number("n"), job.number("hold"), job.state) == (1, 0, JobState.QUEUED)


def test_a_selection_without_criteria_is_refused() -> None:
    """What changes jobs must not take all of them by accident; the message names the options."""
    with pytest.raises(InvalidRequest, match="Give job ids, --batch"):
        selection_of().check()
    selection_of(older_than="0s").check()


@pytest.mark.parametrize(
    ("text", "ms"), [("90s", 90_000), ("15m", 900_000), ("2h", 7_200_000), ("3 d", 259_200_000)]
)
def test_ages_are_read(text: str, ms: int) -> None:
    """A number and a unit."""
    assert parse_age("--older-than", text) == ms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"older_than": "soon"}, "--older-than must be a number and s, m, h or d"),
        ({"states": ["done"]}, "--state must be one of queued"),
        ({"age_of": "birth"}, "--age-of must be one of created, ended"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    """Each with what it may be."""
    with pytest.raises(InvalidRequest, match=message):
        selection_of(**options)


def test_the_words_of_a_selection_say_all_of_it() -> None:
    """They are what an audit keeps."""
    chosen = selection_of(
        jobs=["a", "b", "c", "d"], batch="b", tenant="t", states=["failed"], codes=["lost"], older_than="48h", age_of="ended"
    )  # fmt: skip
    said = "a, b, c and 1 more; batch b; tenant t; state failed; code lost; ended older than 2d ago"
    assert chosen.words() == said
    assert Selection().words() == "all jobs"
