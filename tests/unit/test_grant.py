"""Auth data beside or around the model's own fields, what a grant's signature covers, and the keys that make it."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from posthouse.agent.grant import AuthData, split
from posthouse.signing.ed25519 import LIFETIME_S, Ed25519Keys, verifiers
from posthouse.wire.grant import BEGIN_S, Grant, granted_text, issued

AUTH_DATA: dict[str, Any] = {
    "signature": "AAAA",
    "cost": 256,
    "endpoint": "stable",
    "reqnum": 3,
    "url": "http://1.2.3.4:5",
    "request_idx": 9,
    "grant": {"worker_id": 7, "max_cost": 1e4, "exp": 1000, "nonce": "n", "kid": "k", "signature": "BBBB"},
}
GRANT = Grant(worker_id=7, max_cost=1e4, exp=1000, nonce="n", kid="k", signature="BBBB")
READ = AuthData("AAAA", 256.0, "stable", 3, "http://1.2.3.4:5", 9, GRANT)
AROUND: dict[str, Any] = {name: AUTH_DATA[name] for name in ("url", "endpoint", "reqnum", "request_idx", "cost")}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
model_fields = st.dictionaries(
    st.text().filter(lambda name: name not in {*AUTH_DATA, "__request_id", "auth_data"}), json_values, max_size=4
)


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


@pytest.mark.parametrize("field", ["url", "endpoint", "reqnum", "request_idx", "cost"])
def test_every_field_around_a_grant_is_covered(field: str) -> None:
    other = AROUND[field] + ("x" if isinstance(AROUND[field], str) else 1)
    assert granted_text(GRANT, **AROUND | {field: other}) != granted_text(GRANT, **AROUND)


@pytest.mark.parametrize(("field", "other"), [("worker_id", 8), ("max_cost", 2e4), ("exp", 1001), ("nonce", "m")])
def test_every_field_of_a_grant_is_covered(field: str, other: Any) -> None:
    assert granted_text(msgspec.structs.replace(GRANT, **{field: other}), **AROUND) != granted_text(GRANT, **AROUND)


@given(url=st.text(), endpoint=st.text())
def test_what_is_signed_can_be_read_in_one_way_only(url: str, endpoint: str) -> None:
    text = granted_text(GRANT, **AROUND | {"url": url, "endpoint": endpoint})
    assert json.loads(text) == ["posthouse-grant-1", url, 7, endpoint, 3, 9, 256.0, 1e4, 1000, "n"]


def test_a_client_may_re_send_a_whole_number_as_an_integer_or_as_a_float() -> None:
    assert granted_text(GRANT, **AROUND | {"cost": 256}) == granted_text(GRANT, **AROUND | {"cost": 256.0})


def test_an_issued_grant_is_short_lived_and_bounded_by_what_its_worker_can_do_or_what_was_announced(
    tmp_path: Path,
) -> None:
    keys = Ed25519Keys(tmp_path / "grant.pem", now=0.0)
    one, two = (issued(keys.sign, worker_id=7, perf=perf, now=1000.9, **AROUND) for perf in (10.0, 0.01))
    assert (one.exp, one.max_cost, two.max_cost) == (1000 + BEGIN_S, 36_000.0, 256.0)
    assert one.nonce != two.nonce
    verify = verifiers(keys.jwks)[one.kid]
    assert verify(granted_text(one, **AROUND), one.signature)
    assert not verify(granted_text(two, **AROUND), one.signature)
    assert not verify(granted_text(one, **AROUND), "ümläut")


def test_an_old_key_hands_over_and_stays_known_until_the_next_hand_over(tmp_path: Path) -> None:
    path = tmp_path / "grant.pem"
    keys = Ed25519Keys(path, now=0.0)
    assert path.stat().st_mode & 0o777 == 0o600
    keys.rotate_if_old(LIFETIME_S - 1)
    first, signature = keys.sign(b"x")
    assert list(verifiers(keys.jwks)) == [first]
    keys.rotate_if_old(LIFETIME_S)
    second, _ = keys.sign(b"x")
    assert list(verifiers(keys.jwks)) == [second, first]
    assert verifiers(keys.jwks)[first](b"x", signature)
    assert Ed25519Keys(path, now=LIFETIME_S + 1).jwks == keys.jwks
    third, _ = Ed25519Keys(path, now=2 * LIFETIME_S).sign(b"x")
    assert list(verifiers(Ed25519Keys(path, now=2 * LIFETIME_S).jwks)) == [third, second]
    assert sorted(os.listdir(tmp_path)) == ["grant-previous.pem", "grant.pem"]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "grant.pem"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"grant\.pem: holds no unencrypted PEM private key"):
        Ed25519Keys(path, now=0.0)


def test_the_key_id_is_the_thumbprint_of_the_key(tmp_path: Path) -> None:
    """The key and the thumbprint of RFC 8037, appendix A."""
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    (tmp_path / "grant.pem").write_bytes(
        Ed25519PrivateKey.from_private_bytes(secret).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert json.loads(Ed25519Keys(tmp_path / "grant.pem", now=0.0).jwks) == {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
                "use": "sig",
                "alg": "EdDSA",
            }
        ]
    }


@pytest.mark.parametrize(
    "jwks",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 3}',
        b'{"keys": [3]}',
        b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "AAAA"}]}',
        b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_key_set_is_refused(jwks: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON Web Key Set"):
        verifiers(jwks)


def test_keys_of_another_kind_are_left_out() -> None:
    assert verifiers(b'{"keys": [{"kty": "RSA", "n": "x"}, {"kty": "OKP", "crv": "X25519", "x": "y"}]}') == {}
