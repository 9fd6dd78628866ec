"""What belongs to nobody is destroyed, but only on proof."""

from collections.abc import Collection
from typing import Any, cast

import pytest

from posthouse.domain.errors import Unavailable
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.orphans import Orphans
from posthouse.ports import Provider, Store
from tests.kit.fleets import fleet_of, worker
from tests.kit.shop import Clock, Shop

STABILIZATION_S, APART_S = 60.0, 120.0


def listed(label: str, instance_id: str = "") -> Instance:
    return Instance(instance_id or label, label, Observation.RUNNING)


class Site:
    """A server with one worker, labelled `posthouse-here-1`, and the instances at its provider."""

    def __init__(self) -> None:
        self.clock, self.shop = Clock(), Shop()
        self.hub = Hub(cast(Store, None), self.clock, {}, "shop", "here", STABILIZATION_S)
        mine = worker()
        fields: dict[str, Any] = {"label": "posthouse-here-1", "instance_id": "mine"}
        for name, value in fields.items():
            object.__setattr__(mine, name, value)
        fleet = fleet_of(mine)
        self.hub.endpoints[fleet.endpoint.id] = ManagedEndpoint(fleet)
        self.elsewhere: set[str] = set()
        self.store_fails = False
        self.destroyed: list[str] = []
        self.orphans = Orphans(self.hub, self._destroy, self._owners_of, APART_S)

    def _destroy(self, provider: Provider, instance: Instance) -> None:
        self.destroyed.append(instance.id)

    async def _owners_of(self, labels: Collection[str]) -> Collection[str]:
        if self.store_fails:
            raise Unavailable("the database is locked", 5.0)
        return self.elsewhere & set(labels)

    async def look(self, *others: Instance, after_s: float = 0.0) -> list[str]:
        """What has been destroyed once the worker's instance and these are listed, so much later."""
        self.clock.at += after_s
        self.destroyed.clear()
        await self.orphans.sweep(self.shop, [listed("posthouse-here-1", "mine"), *others])
        return self.destroyed


@pytest.fixture
def site() -> Site:
    return Site()


STRAY = listed("posthouse-here-9")


async def test_two_lists_that_are_far_enough_apart_are_proof(site: Site) -> None:
    assert await site.look(STRAY, after_s=STABILIZATION_S) == []
    assert await site.look(STRAY, after_s=APART_S - 1) == []
    assert await site.look(STRAY, after_s=1) == ["posthouse-here-9"]


async def test_one_that_was_away_in_between_is_seen_for_the_first_time_again(site: Site) -> None:
    await site.look(STRAY, after_s=STABILIZATION_S)
    await site.look(after_s=APART_S / 2)
    assert await site.look(STRAY, after_s=APART_S) == []
    assert await site.look(STRAY, after_s=APART_S) == ["posthouse-here-9"]


async def test_soon_after_a_start_nothing_is_destroyed(site: Site) -> None:
    site.orphans.apart_s = 0.0
    assert await site.look(STRAY, after_s=STABILIZATION_S - 1) == []
    assert await site.look(STRAY, after_s=1) == ["posthouse-here-9"]


async def test_what_is_anothers_is_nobodys_business(site: Site) -> None:
    site.elsewhere = {"posthouse-here-9"}
    foreign = listed("posthouse-there-1"), listed("notes")
    assert await site.look(STRAY, *foreign, after_s=STABILIZATION_S) == []
    assert await site.look(STRAY, *foreign, after_s=APART_S) == []


async def test_an_instance_that_was_made_twice_goes_and_the_workers_own_stays(site: Site) -> None:
    twin = listed("posthouse-here-1", "twin")
    await site.look(twin, twin, after_s=STABILIZATION_S)
    assert await site.look(twin, twin, after_s=APART_S) == ["twin"]


async def test_where_most_is_unknown_nothing_goes_and_it_is_said(site: Site) -> None:
    unknown = [listed(f"posthouse-here-{n}") for n in (7, 8)]
    await site.look(*unknown, after_s=STABILIZATION_S)
    assert await site.look(*unknown, after_s=10 * APART_S) == []
    [trouble] = site.orphans.troubles()
    assert trouble.startswith("provider shop has 2 instances of this installation that no worker is known of")
    assert await site.look(unknown[0], after_s=1) == ["posthouse-here-7"]
    assert site.orphans.troubles() == []


async def test_what_a_worker_here_left_behind_is_known(site: Site) -> None:
    """Its row says that it was destroyed: that is proof, however little else there is."""
    await site.look(after_s=STABILIZATION_S)
    site.hub.endpoints.clear()
    left = [listed("posthouse-here-1", "mine")]
    await site.orphans.sweep(site.shop, left)
    site.clock.at += APART_S
    await site.orphans.sweep(site.shop, left)
    assert site.destroyed == ["mine"]


async def test_while_the_store_cannot_be_read_nothing_goes(site: Site) -> None:
    await site.look(STRAY, after_s=STABILIZATION_S)
    site.store_fails = True
    assert await site.look(STRAY, after_s=APART_S) == []
    site.store_fails = False
    assert await site.look(STRAY, after_s=1) == ["posthouse-here-9"]
