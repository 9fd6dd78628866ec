"""Hours at a simulated market, in virtual time: calls stay within its limits, and what is counted is what is billed.

`python -m tests.campaign.market HOURS WORKERS` lives through a longer one, `... market crashes 1` through every crash.
"""

import pytest

from tests.campaign.market import Crash, Day, broken
from tests.kit.marks import long


@pytest.fixture(scope="module")
def day() -> Day:
    return Day(2, 20, offline_h=0.02, churn_h=0.2, move_h=0.2)


def test_the_workers_that_are_wanted_are_there(day: Day) -> None:
    assert day.ready[5] >= 0.9 * 0.9 * 20
    assert 0.75 * 0.8 * 20 <= day.ready[-1] < day.ready[5]
    assert day.shop.most <= 20


def test_no_call_comes_too_soon(day: Day) -> None:
    assert sum(day.api.calls.values()) > 250
    assert not {call for call in day.api.calls if call[1] == 429}


def test_the_dollars_that_are_counted_are_those_that_are_billed(day: Day) -> None:
    assert day.market_usd > 1
    assert day.usd == pytest.approx(day.market_usd, rel=0.002)
    assert abs(day.usd - day.market_usd) < day.unclear_usd


@pytest.mark.parametrize("steps", [n if n % 300 == 1 else long(n) for n in range(1, 1500, 50)])
def test_a_crash_between_any_two_steps_leaves_nothing_rented_twice_and_nothing_behind(steps: int) -> None:
    assert broken(Crash(2, steps)) == []
