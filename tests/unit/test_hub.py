from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from tests.kit.fleets import Fleet


def managed(number: int) -> Fleet:
    return Fleet(Endpoint(EndpointId(number), "llama", Scaling()), 0.0)


def test_the_turns_of_many_endpoints_are_spread() -> None:
    endpoints = [managed(number) for number in range(1, 601)]
    per_s = Counter(at for s in endpoints for at in range(1000, 1060) if s._is_turn(60.0, at - 1.0, at))
    assert per_s.total() == 600
    assert max(per_s.values()) <= 12


@given(st.integers(1, 10**9), st.floats(0, 2e9), st.floats(0, 59))
def test_a_turn_comes_once_in_its_span(number: int, begin: float, after_s: float) -> None:
    one = managed(number)
    assert one._is_turn(60.0, begin, begin + 61.0)
    assert not one._is_turn(60.0, begin, begin)
    assert not (one._is_turn(60.0, begin, begin + after_s) and one._is_turn(60.0, begin + after_s, begin + 59.0))


def test_what_never_had_a_turn_has_it_now() -> None:
    assert managed(7)._is_turn(60.0, 0.0, 1_700_000_000.0)
