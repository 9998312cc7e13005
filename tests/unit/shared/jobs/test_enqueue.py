"""The arguments of an enqueue, and the rules of a job's own fields."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.jobs.enqueue import (
    JobParams,
    Placed,
    check_params,
    header_json,
    idempotency_digest,
    job_arguments,
    job_kind,
    new_job_ids,
    parse_placed,
)
from shared.jobs.names import check_name
from shared.settings import LimitSettings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def test_job_ids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id made a millisecond later sorts behind all made before, for some 35,000 years."""
    runs = []
    for now_ns in (0, 1_000_000, 1_800_000_000_000_000_000, 2_000_000_000_000_000_000):
        monkeypatch.setattr("shared.jobs.enqueue.time.time_ns", lambda now_ns=now_ns: now_ns)
        runs.append(list(new_job_ids(100)))
    assert all(max(run) < min(later) for run, later in pairwise(runs))
    ids = [job_id for run in runs for job_id in run]
    assert len(set(ids)) == 400
    assert all(re.fullmatch(r"job_[0-9a-v]{26}", job_id) for job_id in ids)


@given(
    st.text(max_size=30).filter(lambda key: key.isascii()),
    st.text(max_size=30).filter(lambda key: key.isascii()),
)
def test_keys_have_one_digest_each(one: str, other: str) -> None:
    """Short, of plain characters, and different for different keys."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", idempotency_digest(one))
    assert (idempotency_digest(one) == idempotency_digest(other)) is (one == other)


@given(JSON)
def test_metadata_comes_back_as_it_was_given(metadata: Any) -> None:
    """What passes the check is read back equal from the spec."""
    params = JobParams(metadata=metadata)
    try:
        check_params(params)
    except InvalidRequest as error:
        assert {issue.field for issue in error.issues} == {"metadata"}  # noqa: PT017 - not all that is drawn is fine
        return
    spec = job_arguments("job_1", b"{}", "fp", "m", 1, False, params)[4]
    assert isinstance(spec, bytes)
    assert json.loads(spec).get("metadata") == metadata


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "metadata",
    [float("nan"), {"a": float("inf")}, {1, 2}, object(), "\ud800", {"\ud800": 1}, nested(1900), b"bytes"],
)
def test_metadata_must_be_json(metadata: Any) -> None:
    """Also what Python could write but others could not read, such as NaN or a thousand levels."""
    with pytest.raises(InvalidRequest) as caught:
        check_params(JobParams(metadata=metadata))
    assert caught.value.issues[0].rule == "json"


def test_every_broken_rule_is_told() -> None:
    """All issues at once."""
    params: Any = JobParams(idempotency_key="", priority=200, not_before_at=9, deadline_at=5, on_unknown="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as caught:
        check_params(params)
    assert [issue.field for issue in caught.value.issues] == [
        "idempotency_key",
        "priority",
        "on_unknown",
        "deadline",
    ]


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64])
def test_plain_names_are_names(name: str) -> None:
    """Letters, digits, dots, dashes, underscores."""
    check_name("batch", name)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a:b", "ä", "x" * 65, "a\n", 5, None])
def test_other_names_are_refused(name: Any) -> None:
    """They become parts of keys and paths."""
    with pytest.raises(InvalidRequest, match="batch must be 1-64 letters"):
        check_name("batch", name)


def test_a_kind_holds_what_jobs_share() -> None:
    """Rank by priority (higher first), instants, and only such fields as differ from the usual."""
    params = JobParams(
        priority=-3, not_before_at=5, deadline_at=9, webhook="https://a.test/", on_unknown="fail"
    )
    assert json.loads(job_kind("m", 4, True, params)) == [
        "m", 3 * 2**41, 5, 9,
        ["n", "4", "hook", "1", "sequential", "1", "priority", "-3", "not_before_at", "5", "on_unknown", "fail"],
    ]  # fmt: skip
    assert json.loads(job_kind("m", 1, False, JobParams())) == ["m", 0, 0, 0, ["n", "1"]]


def test_the_header_is_what_the_script_reads() -> None:
    """Names, caps and times of a chunk."""
    limits = LimitSettings(backlog=7, backlog_per_tenant=3, batch_idle_seal_s=2)
    assert json.loads(header_json("acme", None, None, limits)) == {
        "state": "queued", "tenant": "acme", "batch": "", "batch_webhook": "", "backlog": 7, "tenant_backlog": 3,
        "idle_seal_ms": 2000, "caps": [], "batch_caps": {},
    }  # fmt: skip


def test_the_scripts_answers_are_read() -> None:
    """One per job: by number, or with the id of the job that was there."""
    placed = parse_placed(list("abcdef"), [0, b"1:job_x", b"2:job_y", 3, 4, 5])
    assert placed == [
        Placed("a", "enqueued"), Placed("job_x", "duplicate"), Placed("job_y", "conflict"),
        Placed("d", "tenant_backlog"), Placed("e", "backlog"), Placed("f", "batch_sealed"),
    ]  # fmt: skip
