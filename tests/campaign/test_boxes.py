"""A server that dies while it works with containers or boxes leaves nothing behind and makes nothing twice; and however
many workers wait for their turn, all come up."""

import pytest

from tests.campaign.boxes import CHANGES, PROVIDERS, Burst, Crash, broken

STEPS = (10, 53, 100, 250)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_crash_between_any_two_steps_is_mended_within_three_minutes(provider: str, change: str) -> None:
    found = {steps: rules for steps in STEPS if (rules := broken(Crash(provider, change, steps)))}
    assert not found


def test_all_that_are_wanted_at_once_come_up_each_in_its_turn() -> None:
    burst = Burst(100, pace_s=5.0)  # the last one waits for more than eight minutes
    assert burst.ready == 100
    assert len(burst.shop.place.made) == 100
