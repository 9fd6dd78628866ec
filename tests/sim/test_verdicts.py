"""What an endpoint says that it is stuck on, and when it says that a worker comes, against worlds that are made so."""

import pytest

from tests.sim import verdicts
from tests.sim.verdicts import TRUTHS, cases, estimates

QUICK = (
    *(verdicts.enough, verdicts.first_start, verdicts.cold_start, verdicts.growth, verdicts.one_bad_machine),
    *(verdicts.market_is_empty, verdicts.quota, verdicts.suspended, verdicts.stopped),
)


def test_every_reason_is_called_by_its_name() -> None:
    assert [case.text for case in cases(len(QUICK), QUICK) if not case.right] == []


@pytest.mark.long
def test_of_two_hundred_cases_nineteen_in_twenty_are_right() -> None:
    found = list(cases(8 * len(TRUTHS)))
    assert len(found) >= 200
    wrong = [f"{case.truth} was called {case.told}: {case.text}" for case in found if not case.right]
    assert len(wrong) <= 0.05 * len(found), wrong


@pytest.mark.long
def test_nine_in_ten_estimates_of_starts_hold() -> None:
    held = estimates(20)
    assert len(held) > 400
    assert 0.87 <= sum(held) / len(held) <= 0.93
