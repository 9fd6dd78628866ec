"""Auth data beside or around the model's own fields, what a grant's MAC covers, and who can make it."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.agent.grant import AuthData, split
from posthouse.server.auth import Keyring
from posthouse.wire.grant import BEGIN_S, Grant, genuine, grant_key, issued, read

AUTH_DATA: dict[str, Any] = {
    "signature": "AAAA",
    "cost": 256,
    "endpoint": "stable",
    "reqnum": 3,
    "url": "http://1.2.3.4:5",
    "request_idx": 9,
    "grant": "BBBB",
}
READ = AuthData("AAAA", 256.0, "stable", 3, "http://1.2.3.4:5", 9, "BBBB")
AROUND: dict[str, Any] = {name: AUTH_DATA[name] for name in ("url", "endpoint", "reqnum", "request_idx", "cost")}
KEY = grant_key("token-of-worker-7")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
model_fields = st.dictionaries(
    st.text().filter(lambda name: name not in {*AUTH_DATA, "__request_id", "auth_data"}), json_values, max_size=4
)
numbers = st.integers(0, 2**53)
replies = st.fixed_dictionaries(
    {"url": st.text(), "endpoint": st.text(), "reqnum": numbers, "request_idx": numbers, "cost": st.floats(0, 1e12)}
)


def grant(**changes: Any) -> Grant:
    text = issued(KEY, **({"worker_id": 7, "perf": 1.0, "now": 1000.9} | AROUND | changes))
    found = read(text)
    assert found is not None
    return found


@given(fields=model_fields)
def test_a_flat_body_is_the_auth_data_and_the_fields_of_the_model(fields: dict[str, Any]) -> None:
    auth_data, body, session_id = split(json.dumps({**fields, **AUTH_DATA, "__request_id": "x"}).encode())
    assert auth_data == READ
    assert json.loads(body) == fields
    assert session_id is None


@given(payload=json_values)
def test_a_wrapped_payload_passes_to_the_byte(payload: Any) -> None:
    written = json.dumps(payload)
    body = f'{{"session_id": "s1", "payload": {written}, "auth_data": {json.dumps(AUTH_DATA)}}}'.encode()
    auth_data, rest, session_id = split(body)
    assert (auth_data, session_id) == (READ, "s1")
    assert rest.decode() == written


def test_numbers_may_be_written_as_strings() -> None:
    auth_data, *_ = split(json.dumps(AUTH_DATA | {"cost": "256.0", "reqnum": "3"}).encode())
    assert auth_data == READ


@given(reply=replies)
def test_a_grant_is_genuine_for_the_reply_that_it_was_issued_for(reply: dict[str, Any]) -> None:
    text = issued(KEY, worker_id=7, perf=1.0, now=1000.9, **reply)
    found = read(text)
    assert found is not None
    assert (found.worker_id, found.max_cost, found.exp) == (7, max(3600.0, reply["cost"]), 1000 + BEGIN_S)
    assert genuine(KEY, found, **reply)


@pytest.mark.parametrize("field", ["url", "endpoint", "reqnum", "request_idx", "cost"])
def test_every_field_around_a_grant_is_covered(field: str) -> None:
    other = AROUND[field] + ("x" if isinstance(AROUND[field], str) else 1)
    assert genuine(KEY, grant(), **AROUND)
    assert not genuine(KEY, grant(), **AROUND | {field: other})


@pytest.mark.parametrize(
    ("field", "other"), [("worker_id", 8), ("max_cost", 2e4), ("exp", 1121), ("request_idx", 8), ("mac", bytes(28))]
)
def test_every_field_of_a_grant_is_covered(field: str, other: Any) -> None:
    assert not genuine(KEY, grant()._replace(**{field: other}), **AROUND)


@given(one=replies, two=replies)
def test_no_two_replies_have_the_same_grant(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (grant(**one).mac == grant(**two).mac) == (one == two)


@given(text=st.text(min_size=2), cut=st.integers(0, 20), other_cut=st.integers(0, 20))
def test_where_the_url_ends_is_covered(text: str, cut: int, other_cut: int) -> None:
    splits = [(text[:at], text[at:]) for at in (min(cut, len(text)), min(other_cut, len(text)))]
    macs = [grant(url=url, endpoint=endpoint).mac for url, endpoint in splits]
    assert (macs[0] == macs[1]) == (splits[0] == splits[1])


def test_a_client_may_re_send_a_whole_number_as_an_integer_or_as_a_float() -> None:
    assert grant(cost=256) == grant(cost=256.0)


@pytest.mark.parametrize(("field", "value"), [("reqnum", 10**30), ("request_idx", -(10**30)), ("cost", float("nan"))])
def test_numbers_that_no_reply_has_are_not_genuine(field: str, value: float) -> None:
    assert not genuine(KEY, grant(), **AROUND | {field: value})


def test_an_issued_grant_is_short_lived_and_bounded_by_what_its_worker_can_do_or_what_was_announced() -> None:
    one, two = (grant(perf=perf) for perf in (10.0, 0.01))
    assert (one.exp, one.max_cost, two.max_cost) == (1000 + BEGIN_S, 36_000.0, 256.0)
    assert not genuine(KEY, two._replace(mac=one.mac), **AROUND)


def test_every_worker_has_a_key_of_its_own_that_its_token_gives_and_no_other() -> None:
    keyring = Keyring(bytes(32), [], lambda _: None)
    keys = {keyring.grant_key(worker_id) for worker_id in range(1, 101)}
    assert len(keys) == 100
    assert keyring.grant_key(7) == grant_key(keyring.worker_token(7))
    assert Keyring(b"\1" * 32, [], lambda _: None).grant_key(7) not in keys
    assert not genuine(keyring.grant_key(8), grant(), **AROUND)


def test_a_worker_without_a_token_has_no_key() -> None:
    with pytest.raises(ValueError, match="without a token"):
        grant_key("")


def test_a_grant_has_one_spelling() -> None:
    text = issued(KEY, worker_id=7, perf=1.0, now=1000.0, **AROUND)
    assert read(text) == grant(now=1000.0)
    assert len(text) % 4 == 0
    assert "=" not in text
    for other in (f"{text}=", f"{text}\n", f" {text[:-1]}", text.replace(text[5], "-", 1), "ü" * len(text), "", "A"):
        assert read(other) is None, other


@given(text=st.text(max_size=100) | st.binary(min_size=57, max_size=57).map(lambda raw: base64.b64encode(raw).decode()))
def test_no_text_is_more_than_no_grant(text: str) -> None:
    found = read(text)
    assert found is None or not genuine(KEY, found, **AROUND)


@pytest.mark.parametrize("form", [0, 1, 3, 255])
def test_what_has_another_form_is_no_grant(form: int) -> None:
    raw = base64.b64decode(issued(KEY, worker_id=7, perf=1.0, now=1000.0, **AROUND))
    assert read(base64.b64encode(bytes([form]) + raw[1:]).decode()) is None


@pytest.mark.parametrize("size", [128, 256, 512])
def test_a_signature_of_the_wire_is_no_grant(size: int) -> None:
    assert read(base64.b64encode(b"\2" * size).decode()) is None
