"""Who goes when there are too many connections, or too many bytes of nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse import places
from posthouse.places import Places, place


def test_the_one_that_goes_is_of_the_address_with_the_most() -> None:
    of = Places[str](4)
    assert [of.add(who, address) for who, address in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"))] == [None] * 4
    assert of.add("c1", "c") == "a1"
    assert of.add("a4", "a") == "a2"
    of.answered("a3")
    assert of.add("a5", "a") == "a4"
    assert len(of) == 4


def test_who_has_shown_a_good_key_stays() -> None:
    of = Places[str](2)
    of.add("a1", "a")
    of.prove("a1")
    of.add("a2", "a")
    assert of.add("a3", "a") == "a2"
    of.prove("a3")
    assert of.add("a4", "a") == "a4"  # all others are known: the new one has no place
    assert len(of) == 2


def test_an_owner_of_many_addresses_has_one_share() -> None:
    assert place("2001:db8::1") == place("2001:db8::2") != place("2001:db8:0:1::1")
    of = Places[str](3)
    for who, address in (("x", "2001:db8::1"), ("y", "2001:db8::2"), ("z", "10.0.0.1")):
        of.add(who, address)
    assert of.add("w", "10.0.0.2") == "x"


def test_bytes_of_nobody_are_bounded_for_each_address_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_UNPROVEN_BYTES_EACH", 10)
    monkeypatch.setattr(places, "MAX_UNPROVEN_BYTES", 15)
    of = Places[str](100)
    for who in ("a1", "a2", "b1", "c1"):
        of.add(who, who[0])
    assert of.hold("a1", 6) == []
    assert of.hold("a2", 6) == ["a1"]
    assert of.hold("b1", 4) == []
    assert of.hold("c1", 7) == ["c1"]
    of.release("a2")
    of.prove("b1")
    assert of.held_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.sampled_from(["add", "prove", "hold", "go"]))))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[int, int, str]]) -> None:
    of, there, proven = Places[int](5), dict[int, int](), set[int]()
    for who, address, what in steps:
        if what == "add" and who not in there:
            goes = of.add(who, f"10.0.0.{address}")
            there[who] = address
            if goes is not None:
                assert goes not in proven
                unproven = [there[w] for w in there if w not in proven]
                assert unproven.count(there[goes]) == max(map(unproven.count, unproven))
                del there[goes]
        elif what == "prove" and who in there:
            of.prove(who)
            proven.add(who)
        elif what == "hold":
            of.hold(who, 10)
        elif what == "go":
            of.remove(who)
            there.pop(who, None)
            proven.discard(who)
        assert len(of) == len(there) <= 5
    for who in list(there):
        of.remove(who)
    assert (len(of), of.held_bytes, of._places, of._by_count) == (0, 0, {}, {})
