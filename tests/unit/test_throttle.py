"""How often callers may call, and what a server remembers of them."""

import pytest

from posthouse.config import Rates
from posthouse.engine import buckets
from posthouse.engine.buckets import BURST_S, Buckets
from posthouse.errors import TooMany
from posthouse.places import place
from posthouse.server.auth import SECRET_BYTES, Keyring, Scope
from posthouse.server.throttle import Throttle

NOW = 1.7e9


def taken(of: Buckets, caller: str, now: float, tries: int = 1000) -> int:
    """How many tokens the caller gets at once."""
    return sum(of.take(caller, now) == 0 for _ in range(tries))


def test_after_a_burst_a_caller_gets_as_much_as_the_rate_says() -> None:
    of = Buckets(5.0)
    assert taken(of, "a", NOW) == 5 * BURST_S
    assert taken(of, "a", NOW + 2.001) == 10
    assert taken(of, "a", NOW + 1e6) == 5 * BURST_S


def test_callers_do_not_take_from_each_other() -> None:
    of = Buckets(1.0)
    assert taken(of, "a", NOW) == taken(of, "b", NOW) == BURST_S


def test_a_caller_without_a_token_is_told_when_there_is_one() -> None:
    of = Buckets(0.5)
    assert taken(of, "a", NOW) == 0.5 * BURST_S
    wait_s = of.take("a", NOW)
    assert wait_s == pytest.approx(2.0)
    assert of.take("a", NOW) == wait_s
    assert of.take("a", NOW + wait_s + 0.001) == 0


def test_a_rate_of_less_than_one_in_a_burst_still_lets_one_through() -> None:
    of = Buckets(0.01)
    assert taken(of, "a", NOW) == 1
    assert taken(of, "a", NOW + 100.1) == 1


def test_zero_is_no_limit_and_nothing_is_remembered() -> None:
    of = Buckets(0.0)
    assert taken(of, "a", NOW) == 1000
    assert (of.take("a", NOW), len(of)) == (0.0, 0)


def test_a_dear_call_is_owed_for_and_then_paid_off() -> None:
    of = Buckets(10.0)
    assert of.take("a", NOW, 150.0) == 0  # a full bucket has 100
    assert of.take("a", NOW) == pytest.approx(5.1)
    assert of.take("b", NOW) == 0
    assert of.take("a", NOW + 5.11) == 0


def test_a_clock_that_goes_back_locks_nobody_out() -> None:
    of = Buckets(5.0)
    taken(of, "a", NOW)
    assert of.take("a", NOW - 1000) == 0


def test_however_many_call_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "REMEMBERED", 100)
    of = Buckets(1.0)
    for number in range(5000):
        of.take(number, NOW)
        assert len(of) <= 200
    assert of.take(4999, NOW) == 0
    assert taken(of, "4999", NOW) == BURST_S


def test_an_owner_of_many_addresses_counts_once() -> None:
    assert place("2001:db8:1:2::1") == place("2001:db8:1:2:ffff::9") != place("2001:db8:1:3::1")
    assert place("::ffff:10.0.0.1") == place("10.0.0.1")
    assert place("") == ""
    assert place("not:an:address") == "not:an:address"


def test_a_guesser_is_slowed_and_who_has_a_good_key_is_not() -> None:
    keyring = Keyring(bytes(SECRET_BYTES), [], lambda _: None)
    keys = []
    for name in ("used before", "not yet"):
        record, key = keyring.mint(name, Scope.ROUTE, NOW)
        keyring.put(record)
        keys.append(key)
    known, fresh = keys
    throttle = Throttle(Rates(wrong_keys_per_address=1.0))
    assert throttle.principal(keyring, known, "1.2.3.4", NOW)
    for guess in range(int(BURST_S)):
        assert throttle.principal(keyring, f"guess {guess}", "1.2.3.4", NOW) is None
    with pytest.raises(TooMany):
        throttle.principal(keyring, "one more guess", "1.2.3.4", NOW)
    assert throttle.principal(keyring, known, "1.2.3.4", NOW)
    assert throttle.principal(keyring, fresh, "1.2.3.4", NOW)  # also one that nobody has seen yet
    assert throttle.principal(keyring, "guess", "1.2.3.5", NOW) is None
    assert throttle.counts["throttled_keys"] == 1
    assert throttle.principal(keyring, "", "1.2.3.4", NOW) is None  # a key that is missing is no guess
