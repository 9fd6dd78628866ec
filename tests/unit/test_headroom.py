"""Queueing theory beside the exact answers where there are some."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.policy.headroom import share_waiting, slots_for

busies = st.floats(0.01, 2000)
max_waits = st.floats(0, 10)
bursts = st.floats(1, 4)


def erlang_c(busy: float, slots: int) -> float:
    """Share of requests that wait at all: random arrivals, exponential times of service."""
    blocked = 1.0
    for slot in range(1, slots + 1):
        blocked = busy * blocked / (slot + busy * blocked)
    return slots * blocked / (slots - busy * (1 - blocked))


@pytest.mark.parametrize(("busy", "slots"), [(20, 25), (100, 110), (400, 420)])
def test_the_share_that_waits_is_close_to_that_of_erlang(busy: float, slots: int) -> None:
    for max_wait in (0.0, 0.1, 1.0):
        exact = erlang_c(busy, slots) * math.exp(-(slots - busy) * max_wait)
        assert share_waiting(busy, slots, max_wait, 1.0) == pytest.approx(exact, rel=0.15, abs=1e-6)


@pytest.mark.parametrize(("busy", "max_wait", "slots"), [(5, 1.0, 8), (20, 0.1, 30), (100, 0.1, 118), (100, 1.0, 105)])
def test_as_many_slots_as_erlang_wants(busy: float, max_wait: float, slots: int) -> None:
    def late(count: int) -> float:
        return erlang_c(busy, count) * math.exp(-(count - busy) * max_wait)

    assert late(slots) <= 0.01 < late(slots - 1)
    assert math.ceil(slots_for(busy, max_wait, 1.0, 0.01)) in (slots - 1, slots, slots + 1)


@given(busies, max_waits, bursts)
def test_never_fewer_slots_than_are_busy_and_the_share_is_kept(busy: float, max_wait: float, burstiness: float) -> None:
    slots = slots_for(busy, max_wait, burstiness, 0.01)
    assert slots >= busy
    assert share_waiting(busy, slots, max_wait, burstiness) <= 0.01 + 1e-9


@given(busies, st.floats(1.1, 10), max_waits, bursts)
def test_more_load_takes_more_slots_and_a_smaller_share_of_spare_ones(
    busy: float, times: float, max_wait: float, burstiness: float
) -> None:
    few, many = (slots_for(b, max_wait, burstiness, 0.01) for b in (busy, busy * times))
    assert many >= few
    assert many / (busy * times) <= few / busy * (1 + 1e-6)


@given(busies, max_waits, bursts, st.floats(0, 10), st.floats(0, 3))
def test_max_wait_saves_slots_and_bursts_cost_some(
    busy: float, max_wait: float, burstiness: float, longer: float, burstier: float
) -> None:
    slots = slots_for(busy, max_wait, burstiness, 0.01)
    assert slots_for(busy, max_wait + longer, burstiness, 0.01) <= slots * (1 + 1e-6)
    assert slots_for(busy, max_wait, burstiness + burstier, 0.01) >= slots * (1 - 1e-6)
