"""What belongs to nobody is destroyed, but only on proof."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from posthouse.domain.endpoint import Endpoint, EndpointId, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Goal, Observation, State
from posthouse.domain.offer import Price
from posthouse.domain.worker import WorkerId
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.engine.loop import Loop
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.orphans import HEARD_S, NOBODY, Orphans
from posthouse.errors import NotFound, Unavailable
from posthouse.fleet.events import Commit
from posthouse.ports import Provider, Store
from posthouse.template import TemplateId, Workergroup
from tests.campaign.disk import Connection, Disk
from tests.kit.fleets import fleet_of, worker
from tests.kit.shop import Clock, Shop

STABILIZATION_S, APART_S = 60.0, 120.0
ELSEWHERE = EndpointId(8)
"""An endpoint that another server has."""


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
        self.hub.directory.put(Endpoint(ELSEWHERE, "there"))
        self.elsewhere: set[str] = set()
        self.store_fails = False
        self.destroyed: list[str] = []
        self.orphans = Orphans(self.hub, self._destroy, self._owners_of, APART_S)

    def _destroy(self, provider: Provider, instance: Instance) -> None:
        self.destroyed.append(instance.id)

    async def _owners_of(self, labels: Collection[str]) -> Mapping[str, EndpointId]:
        if self.store_fails:
            raise Unavailable("the database is locked", 5.0)
        return dict.fromkeys(self.elsewhere & set(labels), ELSEWHERE)

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


async def test_of_several_servers_the_leader_ends_strays_and_the_owner_what_was_made_twice(site: Site) -> None:
    site.orphans.is_leader = lambda: False
    site.elsewhere = {"posthouse-here-2", "posthouse-here-3"}
    there = STRAY, listed("posthouse-here-1", "twin"), *map(listed, sorted(site.elsewhere))
    await site.look(*there, after_s=STABILIZATION_S)
    assert await site.look(*there, after_s=APART_S) == ["twin"]


async def test_where_most_is_unknown_nothing_goes_and_it_is_said(site: Site) -> None:
    unknown = [listed(f"posthouse-here-{n}") for n in (7, 8)]
    await site.look(*unknown, after_s=STABILIZATION_S)
    assert await site.look(*unknown, after_s=10 * APART_S) == []
    [trouble] = site.orphans.troubles()
    assert trouble.startswith("provider shop has 2 instances of this installation that no worker is known of")
    assert await site.look(unknown[0], after_s=APART_S) == []  # not even once most are known
    assert len(site.orphans.troubles()) == 1
    await site.orphans.end([site.orphans.find("posthouse-here-7")])
    assert site.destroyed == ["posthouse-here-7"]
    assert await site.look() == []
    assert site.orphans.troubles() == []


@pytest.mark.parametrize("read", [True, False], ids=["read at the start", "written since"])
async def test_what_a_worker_here_left_behind_is_known_though_it_was_never_listed(site: Site, read: bool) -> None:
    """Its row says that it was destroyed: that is proof, however little else there is."""
    [managed] = site.hub.endpoints.values()
    home, [mine] = managed.fleet.endpoint.id, managed.fleet.workers.values()
    site.hub.endpoints.clear()
    site.hub.store = cast(Store, Connection(Disk(), _nothing))
    if read:
        await site.hub.store.commit(home, 0, 1, (mine,), None)
        await site.hub.take_over(home)
        site.hub.endpoints.clear()  # it was missed in two lists, and counts as gone
    else:
        loop = Loop(site.hub, cast(Executor, None))
        loop.commit(managed, Commit((mine,), None), site.clock.now())
        await loop.settle(managed)
    left = [listed("posthouse-here-1", "mine")]
    site.clock.at += STABILIZATION_S
    await site.orphans.sweep(site.shop, left)
    site.clock.at += APART_S
    await site.orphans.sweep(site.shop, left)
    assert site.destroyed == ["mine"]


@pytest.fixture
async def served(site: Site) -> Site:
    """The same, with a store, and a stray that reports."""
    site.hub.store = cast(Store, Connection(Disk(), _nothing))
    site.hub.default_provider = "shop"
    site.hub.providers = {"shop": site.shop}
    await site.look(STRAY, after_s=STABILIZATION_S)
    site.clock.at += APART_S
    site.orphans.heard(9)
    return site


async def _nothing(name: str, args: tuple[Any, ...]) -> None:
    return None


async def test_one_that_reports_is_adopted_and_drained(served: Site) -> None:
    assert await served.look(STRAY) == []
    home = served.hub.home_of(9)
    assert home is not None
    assert (home.fleet.endpoint.id, home.leaving) == (NOBODY, True)
    worker = home.fleet.workers[WorkerId(9)]
    assert (worker.label, worker.instance_id, worker.goal) == (STRAY.label, STRAY.id, Goal.GONE)
    assert home.fleet.requests.busy(worker.id)  # until its report says otherwise
    assert list(await served.hub.store.fleet_ids()) == [NOBODY]
    assert await served.look(STRAY, after_s=APART_S) == []
    assert served.orphans.all() == []


async def test_two_that_report_come_to_the_same_place_one_after_the_other(served: Site) -> None:
    other = listed("posthouse-here-11")
    await served.look(STRAY)
    await served.look(STRAY, other)
    served.clock.at += APART_S
    served.orphans.heard(11)
    assert await served.look(STRAY, other) == []
    home = served.hub.endpoints[NOBODY]
    assert set(home.fleet.workers) == {9, 11}


async def test_one_that_is_adopted_as_the_store_fails_is_drained_all_the_same(
    served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: object) -> None:
        raise Unavailable("the database is locked", 5.0)

    served.orphans.owners_of = served.hub.store.workers_labelled
    with monkeypatch.context() as patched:
        patched.setattr(Hub, "take_over", fail)
        assert await served.look(STRAY) == []
    assert served.hub.home_of(9) is None  # the store has it, and nobody else
    assert await served.look(STRAY, after_s=APART_S) == []
    assert set(served.hub.endpoints[NOBODY].fleet.workers) == {9}


async def test_one_that_has_fallen_silent_is_destroyed(served: Site) -> None:
    assert await served.look(STRAY, after_s=HEARD_S) == ["posthouse-here-9"]


async def test_an_operator_makes_it_a_worker_again_or_ends_it(served: Site) -> None:
    unknown = [listed(f"posthouse-here-{n}") for n in (9, 10, 11)]
    served.hub.put_group(Workergroup(WorkergroupId(5), EndpointId(3), TemplateId(1)))
    served.hub.open(Endpoint(EndpointId(3), "llm"))
    await served.look(*unknown)
    group = served.hub.workergroups[WorkergroupId(5)]
    worker = await served.orphans.adopt(served.orphans.find("posthouse-here-9"), group)
    assert (worker.id, worker.state, worker.goal) == (9, State.STARTING, Goal.HOT)
    assert served.hub.endpoints[EndpointId(3)].fleet.workers[WorkerId(9)].instance_id == "posthouse-here-9"
    assert await served.look(*unknown) == []
    assert [orphan.worker_id for orphan in served.orphans.all()] == [10, 11]
    served.destroyed.clear()
    await served.orphans.end([served.orphans.find("posthouse-here-10")])
    assert served.destroyed == ["posthouse-here-10"]
    dear = replace(listed("posthouse-here-11"), price=Price(7.0))
    await served.look(dear)
    worker = await served.orphans.adopt(served.orphans.find("posthouse-here-11"), group)
    assert worker.price == dear.price  # what its provider says, and not what others cost
    with pytest.raises(NotFound):
        served.orphans.find("posthouse-here-9")


async def test_while_the_store_cannot_be_read_nothing_goes(site: Site) -> None:
    await site.look(STRAY, after_s=STABILIZATION_S)
    site.store_fails = True
    assert await site.look(STRAY, after_s=APART_S) == []
    site.store_fails = False
    assert await site.look(STRAY, after_s=1) == ["posthouse-here-9"]
