"""Bodies of every shape: each is read, or refused in words; nothing else comes of them."""

import json
import math
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from posthouse.errors import BadRequest
from posthouse.wire import deletes, route, status
from posthouse.wire.checks import MAX_WORK
from tests.kit.bodies import DELETES, ROUTE, STATUS


@given(STATUS)
def test_a_report_is_within_bounds_or_refused(body: dict[str, object]) -> None:
    try:
        worker_id, token, report = status.decode(json.dumps(body).encode())
    except BadRequest:
        return
    assert worker_id >= 0
    assert len(token) <= 512
    figures = (report.cur_load, report.taken, report.taken_rate, report.done, report.done_rate, report.disk_gb)
    assert all(math.isfinite(f) and 0 <= f <= MAX_WORK for f in (*figures, report.max_perf or 0.0))
    assert abs(report.disk_added_gb) <= MAX_WORK
    assert report.scheme in ("A4", "A5", "A5S", "U")
    assert report.working_count >= 0
    assert len(report.error) <= status.MAX_TEXT
    assert len(report.url) <= status.MAX_URL


@given(DELETES)
def test_ended_requests_are_numbers_with_an_outcome_or_refused(body: dict[str, object]) -> None:
    try:
        _, _, ended = deletes.decode(json.dumps(body).encode())
    except BadRequest:
        return
    assert all(isinstance(e.request_idx, int) and isinstance(e.success, bool) for e in ended)


@given(ROUTE)
def test_a_request_for_a_worker_has_a_name_and_a_bounded_cost_or_is_refused(body: dict[str, object]) -> None:
    asked = route.decode(json.dumps(body).encode())
    assert isinstance(route.key_in(asked), str)
    try:
        ask = route.checked(asked)
    except BadRequest:
        return
    assert 0 <= ask.cost <= MAX_WORK or ask.cost == route.NOT_STATED
    assert ask.request_idx is None or 0 <= ask.request_idx <= 2**53
    assert 0 < len(ask.endpoint) <= route.MAX_NAME


@given(
    st.binary(max_size=200) | st.binary(max_size=50).map(lambda b: b'{"id":1,"endpoint":"e","worker_id":1,' + b + b"}")
)
def test_bytes_of_any_kind_are_read_or_refused(raw: bytes) -> None:
    for read in (status.decode, deletes.decode, lambda r: route.checked(route.decode(r))):
        with suppress(BadRequest):
            read(raw)
