import os
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.errors import BadRequest, Refused
from posthouse.keys import KeyRecord, KeyUse
from posthouse.server.auth import MAX_KEY, Keyring, Principal, Scope, key_in_query, keys_in, load_secret

SECRET = bytes(range(32))


def ring(versions: Mapping[int, int] | None = None, records: tuple[KeyRecord, ...] = ()) -> Keyring:
    known = {} if versions is None else versions

    def endpoint(endpoint_id: int) -> Endpoint | None:
        version = known.get(endpoint_id)
        return None if version is None else Endpoint(EndpointId(endpoint_id), "llm", key_version=version)

    return Keyring(SECRET, records, endpoint)


def test_scopes_are_ordered_and_named() -> None:
    assert Scope.ROUTE < Scope.READ < Scope.OPERATE < Scope.ADMIN
    assert Scope.named("operate") is Scope.OPERATE
    with pytest.raises(BadRequest, match="scope 'root' is unknown; allowed: route, read, operate, admin"):
        Scope.named("root")


def test_a_minted_key_is_good_once_its_record_was_put() -> None:
    keys = ring()
    record, key = keys.mint("laptop", Scope.READ, now=5.0)
    assert re.fullmatch(rf"ph_{record.id}_[A-Za-z0-9_-]{{43}}", key)
    assert record == KeyRecord(record.id, "laptop", "read", record.digest, 5.0)
    assert key not in repr(record)
    assert keys.check(key, 6.0) is None
    keys.put(record)
    assert keys.check(key, 6.0) == Principal(Scope.READ, None, record.id)


def test_a_key_is_good_after_a_restart_and_only_with_the_same_secret() -> None:
    record, key = ring().mint("laptop", Scope.ADMIN, 5.0)
    assert ring(records=(record,)).check(key, 6.0) == Principal(Scope.ADMIN, None, record.id)
    assert Keyring(bytes(32), (record,), lambda _: None).check(key, 6.0) is None


def test_a_revoked_key_is_not_good() -> None:
    keys = ring()
    record, key = keys.mint("laptop", Scope.READ, 5.0)
    keys.put(record)
    keys.put(replace(record, revoked_at=7.0))
    assert keys.check(key, 8.0) is None


def test_the_last_use_is_kept_and_handed_out_once_to_be_stored() -> None:
    keys = ring()
    used, key = keys.mint("used", Scope.READ, 5.0)
    unused, _ = keys.mint("unused", Scope.READ, 5.0)
    keys.put(used)
    keys.put(unused)
    assert keys.dirty() == []
    keys.check(key, 6.0)
    keys.check(key, 7.0)
    assert keys.records() == [replace(used, last_used_at=7.0), unused]
    assert keys.dirty() == [(replace(used, last_used_at=7.0), KeyUse())]
    assert keys.dirty() == []
    assert keys.records() == [replace(used, last_used_at=7.0), unused]


def test_a_wrong_key_is_no_use() -> None:
    keys = ring()
    record, key = keys.mint("laptop", Scope.READ, 5.0)
    keys.put(record)
    keys.check(key[:-1] + ("A" if key[-1] != "A" else "B"), 6.0)
    assert keys.dirty() == []


def test_a_record_of_unknown_scope_is_refused() -> None:
    with pytest.raises(BadRequest, match="scope 'root'"):
        ring(records=(KeyRecord("0a", "x", "root", "d", 1.0),))


def test_an_endpoint_key_routes_to_its_endpoint_at_its_present_version_only() -> None:
    versions = {7: 1}
    keys = ring(versions)
    key = keys.endpoint_key(7, 1)
    assert re.fullmatch(r"phe_7_1_[A-Za-z0-9_-]{43}", key)
    assert key == ring(versions).endpoint_key(7, 1)
    principal = keys.check(key, 1.0)
    assert principal is not None
    assert (principal.scope, principal.endpoint_id) == (Scope.ROUTE, 7)
    assert principal.key_id not in ("", key)

    versions[7] = 2
    assert keys.check(key, 1.0) is None
    assert keys.check(keys.endpoint_key(7, 2), 1.0) is not None
    del versions[7]
    assert keys.check(keys.endpoint_key(7, 2), 1.0) is None


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_an_endpoint_key_says_nothing_about_another(endpoint_id: int, version: int) -> None:
    keys = ring({endpoint_id: version, endpoint_id + 1: version})
    mac = keys.endpoint_key(endpoint_id, version).split("_", 3)[3]
    assert keys.check(f"phe_{endpoint_id}_{version}_{mac}", 1.0) is not None
    assert keys.check(f"phe_{endpoint_id + 1}_{version}_{mac}", 1.0) is None
    assert keys.check(f"phe_0{endpoint_id}_{version}_{mac}", 1.0) is None
    assert not keys.check_worker(endpoint_id, mac)


_RECORD, _KEY = ring().mint("laptop", Scope.READ, 5.0)
_ENDPOINT_KEY = ring().endpoint_key(7, 1)


@given(st.text(max_size=200) | st.from_regex(r"phe?_[0-9a-f_]{1,20}_[A-Za-z0-9_-]{43}", fullmatch=True))
@example("")
@example("ph_")
@example(_KEY + "\n")
@example(" " + _KEY)
@example(_KEY[:-1])
@example(_KEY.upper())
@example(_ENDPOINT_KEY + "=")
@example("x" * 10**6)
@example("\ud800")
def test_nothing_but_a_whole_key_is_good(text: str) -> None:
    assert ring({7: 1}, (_RECORD,)).check(text, 1.0) is None
    assert not ring().check_worker(7, text)


def test_a_worker_token_is_that_workers_only() -> None:
    keys = ring()
    token = keys.worker_token(7)
    assert len(token) <= MAX_KEY
    assert keys.check_worker(7, token)
    assert not keys.check_worker(8, token)
    assert not keys.check_worker(7, "")
    assert not Keyring(bytes(32), (), lambda _: None).check_worker(7, token)


@pytest.mark.parametrize(
    ("headers", "query", "body", "key"),
    [
        ({"authorization": "Bearer H"}, {}, None, "H"),
        ({"authorization": "bearer  H "}, {}, None, "H"),
        ({"authorization": "H"}, {}, None, "H"),
        ({}, {}, {"api_key": "B"}, "B"),
        ({}, {}, {"api_token": "T"}, "T"),
        ({}, {"api_key": "Q"}, None, "Q"),
        ({}, {}, None, ""),
        # the same one several times is one; two that differ are none
        ({"authorization": "Bearer B"}, {"api_key": "B"}, {"api_key": "B", "api_token": "B"}, "B"),
        ({"authorization": "Bearer H"}, {}, {"api_key": "B"}, ""),
        ({"authorization": "Bearer H"}, {"api_key": "Q"}, None, ""),
        ({}, {}, {"api_key": "B", "api_token": "T"}, ""),
        # what is no key does not count
        ({"authorization": ""}, {"api_key": "Q"}, None, "Q"),
        ({"authorization": "Bearer "}, {"api_key": "Q"}, None, "Q"),
        ({"authorization": "Basic dTpw"}, {"api_key": "Q"}, None, "Q"),
        ({}, {"api_key": "Q"}, {"api_key": None, "api_token": ""}, "Q"),
        ({}, {"api_key": "Q"}, {"api_key": 12}, "Q"),
        ({}, {"api_key": "Q"}, ["api_key"], "Q"),
    ],
)
def test_a_key_is_found_wherever_clients_put_it(
    headers: dict[str, str], query: dict[str, str], body: object, key: str
) -> None:
    assert keys_in(headers, urlencode(query).encode(), body) == key


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"", ""),
        (b"api_key=Q&api_key=Q", "Q"),
        (b"api_key=Q&api_key=P", ""),
        (b"api_key=", ""),
        (b"api_key=%2BQ&id=1", "+Q"),
        (b"\xff=%ff&api_key", ""),
    ],
)
def test_of_two_keys_in_a_query_neither_counts_unless_they_are_one(query: bytes, key: str) -> None:
    assert key_in_query(query) == key


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = load_secret(path)
    assert len(secret) == 32
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]
    assert load_secret(tmp_path / "another") != secret


def test_all_who_make_the_secret_at_once_get_the_same(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / str(number)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(load_secret, [path] * 8))) == 1


def test_a_file_that_is_no_secret_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"short")
    with pytest.raises(Refused, match="has 5 bytes, and a secret has 32"):
        load_secret(path)
    assert path.read_bytes() == b"short"
