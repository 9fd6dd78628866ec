"""A server that dies while it works with containers or boxes leaves nothing behind and makes nothing twice; and however
many workers wait for their turn, all come up."""

import pytest

from tests.campaign.boxes import CHANGES, PROVIDERS, Burst, Crash, broken
from tests.kit.marks import long

STEPS = (10, 53, 100, 250)
EVERY = [(provider, change, steps) for provider in PROVIDERS for change in CHANGES for steps in STEPS]
FEW = EVERY[:: len(STEPS) + 1]
"""One for nearly every change, and each step as often."""


@pytest.mark.parametrize(("provider", "change", "steps"), [one if one in FEW else long(*one) for one in EVERY])
def test_a_crash_between_any_two_steps_is_mended_within_three_minutes(provider: str, change: str, steps: int) -> None:
    assert broken(Crash(provider, change, steps)) == []


def test_all_that_are_wanted_at_once_come_up_each_in_its_turn() -> None:
    burst = Burst(40, pace_s=12.0)  # the last one waits for nearly eight minutes
    assert burst.ready == 40
    assert len(burst.shop.place.made) == 40
