"""Two servers in one process, on one store and one provider, in virtual time: an endpoint moves between them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
import structlog

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.management.inputs import EndpointChanges, NewEndpoint, NewTemplate, NewWorkergroup
from posthouse.wire.route import RouteAsk, RouteReply
from tests.campaign.checks import Checks
from tests.campaign.disk import Disk
from tests.campaign.server import Server
from tests.campaign.virtual import VirtualLoop
from tests.campaign.world import SimInstance, World
from tests.kit.marks import long

NAME = "llm"
ID = EndpointId(1)


@dataclass
class Table:
    """Who is to have which endpoint, and who has it: what a lease in a database would be."""

    assigned: dict[EndpointId, str] = field(default_factory=dict)
    held: dict[EndpointId, str] = field(default_factory=dict)
    epochs: dict[EndpointId, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SharedLease:
    """The `Lease` port on such a table."""

    table: Table
    server: str

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        await asyncio.sleep(0.01)
        table = self.table
        if table.assigned.get(endpoint_id) != self.server or table.held.get(endpoint_id, self.server) != self.server:
            return None
        table.held[endpoint_id] = self.server
        table.epochs[endpoint_id] = table.epochs.get(endpoint_id, 0) + 1
        return table.epochs[endpoint_id]

    async def release(self, endpoint_id: EndpointId) -> None:
        if self.table.held.get(endpoint_id) == self.server:
            del self.table.held[endpoint_id]

    async def owner(self, endpoint_id: EndpointId) -> str:
        return self.table.held.get(endpoint_id, "")

    def holds(self) -> bool:
        return True

    def is_shared(self) -> bool:
        return False

    def server_count(self) -> int:
        return 2


class NoChecks:
    """The campaign's checks are of one server that has everything."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class Site:
    """Two servers, `a` and `b`."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.loop, self.world, self.disk, self.table = loop, World(seed, loop), Disk(), Table({ID: "a"})
        self.broken: list[tuple[str, str]] = []
        self.world.broken = lambda rule, said: self.broken.append((rule, said))
        self.world.written = self.disk.has_label
        checks = cast(Checks, NoChecks())
        self.servers = {
            name: Server(self.world, self.disk, checks, 5.0, SharedLease(self.table, name)) for name in ("a", "b")
        }

    async def begin(self) -> None:
        """The endpoint with its workgroup is made at `a`; then `b` starts."""
        a, b = self.servers.values()
        await a.start()
        a.follow()
        await a.call(make(a, min_load=60, max_workers=4))
        await b.start()
        b.follow()
        self.world.tell = self._tell

    def _tell(self, instance: SimInstance, message: Any) -> None:
        for server in self.servers.values():
            server._hear(instance, message)

    async def hand_over(self, to: str) -> None:
        """As an operator would have it: who has the endpoint lets it go, and the other takes it."""
        former, self.table.assigned[ID] = self.servers[self.table.held[ID]], to
        await former.call(former.hub.hand_over(ID))
        assert self.table.held.get(ID) is None
        await self.take_over(to)

    async def take_over(self, to: str) -> None:
        """`again`: a server that was cut off may believe that it has it still."""
        assert await self.servers[to].call(self.servers[to].hub.take_over(ID, again=True))

    async def cut_off(self, to: str) -> None:
        """The other takes it without a word to who has it, as if that could not be reached."""
        self.table.assigned[ID] = to
        self.table.held.pop(ID, None)
        await self.take_over(to)

    async def route(self, at: str) -> Any:
        return await self.servers[at].route(RouteAsk(NAME, 10.0, 0), 5.0)

    def at(self, server: str) -> set[tuple[int, str]]:
        """Ids and labels of the endpoint's workers as a server has them."""
        managed = self.servers[server].hub.endpoints.get(ID)
        return set() if managed is None else {(w.id, w.label) for w in managed.fleet.workers.values()}

    def there(self) -> set[tuple[int, str]]:
        """The same in truth."""
        return {(i.worker_id, i.label) for i in self.world.all_instances.values() if not i.gone}


async def make(server: Server, **scaling: Any) -> None:
    management = server.management
    template = await management.templates.create(NewTemplate(name="t", image="v1"))
    plain = {"endpoint_name": NAME, "cold_workers": 0, "cold_mult": 1, **scaling}
    await management.endpoints.create(NewEndpoint.model_validate(plain))
    await management.workergroups.create(NewWorkergroup(endpoint_name=NAME, template_id=template.id))


@pytest.fixture
def live() -> Iterator[Callable[[int, Callable[[Site], Coroutine[Any, Any, None]]], None]]:
    """Lives through a scenario in virtual time."""
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def live(seed: int, scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
        loop = VirtualLoop()
        site = Site(seed, loop)
        time = SimpleNamespace(
            perf_counter=loop.time,
            clock_gettime=lambda which: loop.time(),
            time=lambda: site.world.wall_s + loop.time(),
        )
        try:
            with patch("posthouse.engine.clock.time", time), patch("posthouse.engine.loop.time", time):
                loop.run_until_complete(scenario(site))
        finally:
            loop.end()
        assert site.broken == []

    yield live
    structlog.configure(**logs)


Live = Callable[[int, Callable[[Site], Coroutine[Any, Any, None]]], None]


def test_an_endpoint_moves_with_its_workers_and_is_served_where_it_is(live: Live) -> None:
    async def scenario(site: Site) -> None:
        await site.begin()
        await asyncio.sleep(1800)
        workers = site.there()
        assert len(workers) >= 1
        assert (site.at("a"), site.at("b")) == (workers, set())
        listed = site.servers["b"].hub.directory.get(ID)
        assert listed is not None
        assert (listed.managed, listed.server) == (None, "a")
        assert isinstance(await site.route("a"), RouteReply)
        assert await site.route("b") is None
        for here, there in (("b", "a"), ("a", "b"), ("b", "a")):
            await site.hand_over(here)
            assert (site.at(here), site.at(there)) == (workers, set())
            await asyncio.sleep(300)  # several lists of the provider, and orphans are looked for on both
            assert (site.there(), site.at(here)) == (workers, workers)
            assert isinstance(await site.route(here), RouteReply)
            assert await site.route(there) is None

    live(1, scenario)


def test_a_server_that_was_cut_off_finds_out_with_its_next_write_and_lets_go(live: Live) -> None:
    async def scenario(site: Site) -> None:
        await site.begin()
        await asyncio.sleep(1800)
        workers = site.there()
        await site.cut_off("b")
        assert (site.at("a"), site.at("b")) == (workers, workers)  # a does not know yet
        await asyncio.sleep(300)
        assert (site.at("a"), site.at("b"), site.there()) == (set(), workers, workers)
        listed = site.servers["a"].hub.directory.get(ID)
        assert listed is not None
        assert (listed.managed, listed.server) == (None, "b")
        assert isinstance(await site.route("b"), RouteReply)

    live(2, scenario)


@pytest.mark.parametrize("seed", [3, 4, *map(long, range(5, 11))])
def test_no_worker_is_lost_or_made_twice_whenever_it_moves(live: Live, seed: int) -> None:
    """While workers are rented, loaded, started, stopped and destroyed; orderly and by force."""

    async def scenario(site: Site) -> None:
        await site.begin()
        random, ids = site.world.random, set[int]()
        for _ in range(25):
            await asyncio.sleep(random.uniform(0.0, 120.0))
            here = site.table.held[ID]
            if random.random() < 0.5:
                server = site.servers[here]
                scaling = {"min_load": random.choice([0, 1, 60, 200]), "inactivity_timeout": random.choice([0, "none"])}
                changes = EndpointChanges.model_validate(scaling)
                await server.call(server.management.endpoints.update(ID, changes))
                await asyncio.sleep(random.uniform(0.0, 20.0))
            other = "b" if here == "a" else "a"
            await (site.cut_off(other) if random.random() < 0.3 else site.hand_over(other))
            ids |= {worker_id for worker_id, _ in site.there()}
        await asyncio.sleep(3600)
        here = site.table.held[ID]
        assert site.at(here) == site.there()
        assert site.at("b" if here == "a" else "a") == set()
        assert len(ids) > 1  # it was no day of rest

    live(seed, scenario)
