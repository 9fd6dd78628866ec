"""A grant beside or around the model's own fields: nothing of the model's is lost, nothing of the grant's stays."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from posthouse.agent.grant import Grant, split

GRANT = {
    "signature": "AAAA",
    "cost": 256,
    "endpoint": "stable",
    "reqnum": 3,
    "url": "http://1.2.3.4:5",
    "request_idx": 9,
}
READ = Grant(signature="AAAA", cost=256.0, endpoint="stable", reqnum=3, url="http://1.2.3.4:5", request_idx=9)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
model_fields = st.dictionaries(
    st.text().filter(lambda name: name not in {*GRANT, "__request_id", "auth_data"}), json_values, max_size=4
)


@given(fields=model_fields)
def test_a_flat_body_is_the_grant_and_the_fields_of_the_model(fields: dict[str, Any]) -> None:
    grant, body = split(json.dumps({**fields, **GRANT, "__request_id": "x"}).encode())
    assert grant == READ
    assert json.loads(body) == fields


@given(payload=json_values)
def test_a_wrapped_payload_passes_to_the_byte(payload: Any) -> None:
    written = json.dumps(payload)
    grant, body = split(f'{{"session_id": null, "payload": {written}, "auth_data": {json.dumps(GRANT)}}}'.encode())
    assert grant == READ
    assert body.decode() == written


def test_numbers_may_be_written_as_strings() -> None:
    grant, _ = split(json.dumps(GRANT | {"cost": "256.0", "reqnum": "3"}).encode())
    assert grant == READ
