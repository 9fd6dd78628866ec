"""A provider's list is believed, but not where it would end a fleet by itself."""

from collections.abc import Sequence
from typing import cast

import pytest

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation, State
from posthouse.domain.worker import WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.observer import CONFIRM_S, Observer
from posthouse.ports import Store
from tests.kit.fleets import NOW, fleet_of, worker
from tests.kit.shop import Clock, Shop


class Lister(Shop):
    name = "sim"
    listed: Sequence[Instance] = ()

    async def instances(self) -> Sequence[Instance]:
        return self.listed


class Site:
    """A server whose endpoint has some stopped workers at one provider."""

    def __init__(self, count: int) -> None:
        self.clock, self.shop = Clock(), Lister()
        self.clock.at = NOW
        hub = Hub(cast(Store, None), self.clock, {"sim": self.shop}, "sim", "here", 0.0)
        self.fleet = fleet_of(*[worker(WorkerId(n), State.STOPPED) for n in range(1, count + 1)])
        hub.endpoints[self.fleet.endpoint.id] = ManagedEndpoint(self.fleet)
        self.observer = Observer(hub)

    async def look(self, *numbers: int, after_s: float = 0.0) -> int:
        """How many workers there are once these are listed, so much later."""
        self.clock.at += after_s
        self.shop.listed = [Instance(f"i{n}", f"test-{n}", Observation.HALTED) for n in numbers]
        await self.observer.observe(self.shop)
        return len(self.fleet.workers)


async def test_an_empty_list_ends_nothing_until_it_was_empty_for_a_while() -> None:
    site = Site(3)
    await site.look(1, 2, 3, after_s=1)
    assert await site.look(after_s=10) == 3
    assert await site.look(after_s=CONFIRM_S - 1) == 3
    assert await site.look(1, 2, 3, after_s=10) == 3  # it was a lie
    assert await site.look(after_s=10) == 3
    assert await site.look(after_s=CONFIRM_S) == 0


@pytest.mark.parametrize(("there", "left"), [(3, (1, 2)), (1, ())])
async def test_what_a_list_lacks_beside_most_of_the_others_is_gone(there: int, left: tuple[int, ...]) -> None:
    site = Site(there)
    await site.look(*range(1, there + 1), after_s=1)
    assert await site.look(*left, after_s=10) == len(left)
