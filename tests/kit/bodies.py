"""Bodies of calls, good and bad, as strategies of Hypothesis."""

from hypothesis import strategies as st

from posthouse.wire import status

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
