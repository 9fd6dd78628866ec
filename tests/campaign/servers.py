"""Several servers in virtual time, on one register of leases and one provider: they die, are cut off, stand still."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import structlog

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.instance import Instance
from posthouse.engine.changes import Changes
from posthouse.engine.lease import SharedLease
from posthouse.engine.owners import Owners
from posthouse.errors import StaleVersion, Unavailable
from posthouse.ports import InstanceSpec
from posthouse.sharing import LiveServer
from tests.campaign.checks import Checks
from tests.campaign.disk import Disk
from tests.campaign.server import Server
from tests.campaign.virtual import VirtualLoop
from tests.campaign.world import SimInstance, World

LEASE_S = 2.0


@dataclass
class Register:
    """What `PostgresServers` has in its tables."""

    loop: VirtualLoop
    disk: Disk
    lives: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Where each server is, and until when its lease is."""
    joined: dict[str, float] = field(default_factory=dict)
    """When each came: others learn of it when they renew their leases."""
    held: dict[EndpointId, str] = field(default_factory=dict)
    members: list["Member"] = field(default_factory=list)
    rented: dict[str, str] = field(default_factory=dict)
    """Who asked for each label."""

    def holder(self, endpoint_id: EndpointId) -> str:
        found = self.held.get(endpoint_id, "")
        return found if found in self.lives else ""

    def wanted(self) -> list[EndpointId]:
        return sorted({*(e.id for e in self.disk.endpoints()), *self.disk.fleet_ids()})

    def give(self, server: str, endpoint_id: EndpointId) -> int:
        self.held[endpoint_id] = server
        epochs = self.disk.epochs
        epochs[endpoint_id] = epochs.get(endpoint_id, 0) + 1
        self.tell()
        return epochs[endpoint_id]

    def tell(self) -> None:
        for member in self.members:
            self.loop.call_later(0.01, member.hear, "owners")


class Line:
    """A member's way to the database: the `Servers` port."""

    def __init__(self, table: Register) -> None:
        self.table = table
        self.on_notice: Callable[[str], None] = lambda topic: None
        self.is_cut = False
        self.hangs_s = LEASE_S / 2
        """How long a call takes to fail while it is cut."""
        self.moves = asyncio.Event()
        """Not set: the server stands still, as far as the database sees it."""
        self.moves.set()

    async def through(self) -> None:
        """Raises: Unavailable."""
        await asyncio.sleep(0.002)
        await self.moves.wait()
        if self.is_cut:
            await asyncio.sleep(self.hangs_s)
            raise Unavailable("the network is cut", 1.0)

    async def register(self, server: str, url: str, lease_s: float) -> None:
        await self.through()
        lives = self.table.lives
        for name in [name for name in lives if name.partition("-")[0] == server.partition("-")[0]]:
            del lives[name]
        lives[server] = url, self.table.loop.time() + lease_s
        self.table.joined[server] = self.table.loop.time()
        self.table.tell()

    async def renew(self, server: str, lease_s: float) -> tuple[Sequence[LiveServer], float] | None:
        await self.through()
        now, lives = self.table.loop.time(), self.table.lives
        if server not in lives:
            return None
        lives[server] = lives[server][0], now + lease_s
        return [LiveServer(name, url, until < now) for name, (url, until) in sorted(lives.items())], now

    async def evict_expired(self, server: str) -> Sequence[str]:
        await self.through()
        now, lives = self.table.loop.time(), self.table.lives
        dead = [name for name, (_, until) in lives.items() if name != server and until < now]
        for name in dead:
            del lives[name]
        return dead

    async def withdraw(self, server: str) -> None:
        await self.through()
        if server in self.table.lives:
            self.table.lives[server] = "", self.table.lives[server][1]

    async def deregister(self, server: str) -> None:
        await self.through()
        self.table.lives.pop(server, None)
        self.table.tell()

    async def owners(self) -> Mapping[EndpointId, str]:
        await self.through()
        return {endpoint_id: self.table.holder(endpoint_id) for endpoint_id in self.table.wanted()}

    async def claim(self, server: str, most: int) -> Mapping[EndpointId, int]:
        await self.through()
        if server not in self.table.lives:
            return {}
        free = [endpoint_id for endpoint_id in self.table.wanted() if not self.table.holder(endpoint_id)]
        return {endpoint_id: self.table.give(server, endpoint_id) for endpoint_id in free[:most]}

    async def acquire(self, server: str, endpoint_id: EndpointId) -> int | None:
        await self.through()
        free = server in self.table.lives and self.table.holder(endpoint_id) in ("", server)
        return self.table.give(server, endpoint_id) if free else None

    async def release(self, server: str, endpoint_id: EndpointId) -> None:
        await self.through()
        if self.table.held.get(endpoint_id) == server:
            del self.table.held[endpoint_id]
        self.table.tell()

    async def shared_file(self, name: str) -> bytes | None:
        return None

    async def put_shared_file(self, name: str, body: bytes, replace: bool = False) -> bytes:
        return body

    async def close(self) -> None:
        return


class Acting:
    """The provider as one server calls it: every call that changes something is looked at."""

    def __init__(self, world: World, look: Callable[[str, bool], None]) -> None:
        self._world = world
        self._look = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def _acts_on(self, instance_id: str) -> None:
        for instance in self._world.all_instances.values():
            if instance.id == instance_id:
                self._look(instance.label, False)

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        self._look(spec.label, True)
        return await self._world.create(offer_id, spec, max_usd_h)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        self._look(spec.label, False)
        return await self._world.update(instance_id, spec)

    async def start(self, instance_id: str) -> None:
        self._acts_on(instance_id)
        await self._world.start(instance_id)

    async def stop(self, instance_id: str) -> None:
        self._acts_on(instance_id)
        await self._world.stop(instance_id)

    async def destroy(self, instance_id: str) -> None:
        self._acts_on(instance_id)
        await self._world.destroy(instance_id)


class Member(Server):
    """One life of one of several servers."""

    def __init__(self, world: World, disk: Disk, checks: Checks, register: Register, name: str) -> None:
        self.line, self.register, self.real = Line(register), register, world
        lease = SharedLease(self.line, name, LEASE_S, register.loop.time)
        super().__init__(cast(World, Acting(world, self._look)), disk, checks, 5.0, lease)
        self.lease = lease

    async def _start(self) -> None:
        await super()._start()
        self.owners = Owners(self.hub, self.lease, "http://" + self.lease.server_id, self.executor.is_idle)
        self.orphans.is_leader = self.owners.is_leader
        self.changes = Changes(self.hub, lambda keys: None)
        await self.owners.register()
        self.keep(self.owners.keep_lease)
        await self.owners.rebalance()
        self.keep(self.owners.keep_balance, self.changes.run)

    async def _before_store(self, call: str, args: tuple[Any, ...]) -> None:
        await self.line.through()
        await super()._before_store(call, args)

    def told(self, instance: SimInstance, message: Any) -> None:
        """What a worker says to every server."""
        self._hear(instance, message)

    def hear(self, topic: str) -> None:
        """A notice of the database."""
        if self.up and not self.line.is_cut and self.line.moves.is_set():
            self.owners.notice(topic)
            self.changes.notice(topic)

    def may_act(self, endpoint_id: EndpointId) -> bool:
        """Whether it believes to have the endpoint, and would begin something for it now."""
        managed = self.hub.endpoints.get(endpoint_id)
        return managed is not None and not managed.closing and self.lease.holds()

    def _look(self, label: str, rents: bool) -> None:
        """Only who has an endpoint acts on it, and only who leads on what nobody has; one asks for a label."""
        if rents and self.register.rented.setdefault(label, self.lease.server) != self.lease.server:
            self.real.broken("nothing is rented by two", f"{label}, by {self.lease.server} too")
        held = self.register.disk.workers_labelled([label]).get(label)
        alive = self.lease.server in self.register.lives
        if held is None:
            known_since = self.register.loop.time() - LEASE_S
            known = [name for name in self.register.lives if self.register.joined[name] <= known_since]
            if not alive or self.lease.server > min(known, default=self.lease.server):
                self.real.broken("one owner acts", f"{self.lease.server} acts on {label!r}, which nobody has")
        elif not alive or self.register.holder(held) != self.lease.server:
            self.real.broken("one owner acts", f"{self.lease.server} acts on {label}, and does not have {held}")

    async def _stop(self) -> None:
        await self.owners.leave()
        with suppress(Unavailable, StaleVersion):  # as what is saved at the end is
            await super()._stop()


class NoChecks:
    """The campaign's own checks are of one server that has everything."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class Estate:
    """Servers `s0`, `s1` and so on, each of which may have several lives."""

    def __init__(self, seed: int, count: int, loop: VirtualLoop) -> None:
        self.loop, self.world, self.disk = loop, World(seed, loop), Disk()
        self.register = Register(loop, self.disk)
        self.broken: list[tuple[str, str]] = []
        self.world.broken = lambda rule, said: self.broken.append((rule, said))
        self.world.written = self.disk.has_label
        self.world.tell = self._tell
        self.names = [f"s{number}" for number in range(count)]
        self.up: dict[str, Member] = {}

    def _tell(self, instance: SimInstance, message: Any) -> None:
        for member in self.up.values():
            member.told(instance, message)

    async def start(self, name: str) -> None:
        """Raises: Unavailable."""
        member = Member(self.world, self.disk, cast(Checks, NoChecks()), self.register, name)
        self.register.members.append(member)
        try:
            await member.start()
        except Unavailable:  # whoever looks after it starts it again
            self.register.members.remove(member)
            member.kill()
            raise
        self.up[name] = member

    def kill(self, name: str) -> None:
        member = self.up.pop(name)
        self.register.members.remove(member)
        member.kill()

    async def stop(self, name: str) -> None:
        member = self.up.pop(name)
        await member.stop()
        self.register.members.remove(member)

    async def still(self, name: str, for_s: float) -> None:
        """Has a server hear nothing from the database for a while, and not know it."""
        line = self.up[name].line
        line.moves.clear()
        await asyncio.sleep(for_s)
        line.moves.set()

    async def cut(self, name: str, for_s: float, hangs_s: float = LEASE_S / 2) -> None:
        """Has a server not reach the database for a while. `hangs_s`: how long a call takes to fail."""
        line = self.up[name].line
        line.is_cut, line.hangs_s = True, hangs_s
        await asyncio.sleep(for_s)
        line.is_cut = False

    async def restart_database(self) -> None:
        """Has every server refused for a moment that is shorter than a lease."""
        await asyncio.gather(*(self.cut(name, 0.6, 0.0) for name in self.up))

    def owners(self) -> dict[EndpointId, list[str]]:
        """Which servers believe that they have each endpoint."""
        return {
            endpoint_id: [name for name, member in self.up.items() if endpoint_id in member.hub.endpoints]
            for endpoint_id in self.register.wanted()
        }

    def known(self) -> dict[str, int]:
        """The workers that the servers know of, by label."""
        fleets = [managed.fleet for member in self.up.values() for managed in member.hub.endpoints.values()]
        return {worker.label: worker.id for fleet in fleets for worker in fleet.workers.values()}

    def there(self) -> list[str]:
        """The labels of what is there in truth."""
        return sorted(i.label for i in self.world.all_instances.values() if not i.gone)


def live(seed: int, count: int, scenario: Callable[[Estate], Coroutine[Any, Any, None]]) -> None:
    """Lives through a scenario in virtual time. Raises: AssertionError where a rule was broken."""
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    loop = VirtualLoop()
    try:
        estate = Estate(seed, count, loop)
        time = SimpleNamespace(
            perf_counter=loop.time,
            clock_gettime=lambda which: loop.time(),
            time=lambda: estate.world.wall_s + loop.time(),
        )
        with patch("posthouse.engine.clock.time", time), patch("posthouse.engine.loop.time", time):
            loop.run_until_complete(scenario(estate))
        assert not estate.broken, estate.broken[:3]
    finally:
        loop.end()
        structlog.configure(**logs)
