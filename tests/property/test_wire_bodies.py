"""Bodies of every shape: each is read, or refused in words; nothing else comes of them."""

import json
import math
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.errors import BadRequest
from posthouse.wire import deletes, route, status
from posthouse.wire.numbers import MAX_WORK

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "0", "1", "-1", "1e400", "nan", "١", "U", "1.1.0", "data update", "http://1.2.3.4:5"])
    | st.text(max_size=20)
)
JSON = st.recursive(VALUES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=4))


def bodies(number: str, *fields: str, **others: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Objects with any values in the fields; a good one, more often than not, in the first."""
    return st.fixed_dictionaries({number: st.just(1) | JSON}, optional=dict.fromkeys(fields, JSON) | others)


ROWS = st.lists(bodies("request_idx", "success", "status") | JSON)
STATUS = bodies("id", *(f for f in status.StatusBody.__struct_fields__ if f != "id"))
DELETES = bodies("worker_id", "mtoken", "request_idxs", "success", requests=ROWS)
ROUTE = bodies("cost", "request_idx", "api_key", endpoint=st.just("e") | JSON)


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
    assert 0 <= ask.cost <= MAX_WORK
    assert ask.request_idx is None or 0 <= ask.request_idx <= 2**53
    assert 0 < len(ask.endpoint) <= route.MAX_NAME


@given(
    st.binary(max_size=200) | st.binary(max_size=50).map(lambda b: b'{"id":1,"endpoint":"e","worker_id":1,' + b + b"}")
)
def test_bytes_of_any_kind_are_read_or_refused(raw: bytes) -> None:
    for read in (status.decode, deletes.decode, lambda r: route.checked(route.decode(r))):
        with suppress(BadRequest):
            read(raw)
