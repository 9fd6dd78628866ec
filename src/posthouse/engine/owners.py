"""Distributes the endpoints of an installation evenly over its servers, and takes over those of a dead server.

Each server renews one lease, claims free endpoints up to its fair share, and hands over what it owns beyond that. A
server whose lease has expired is dead, unless this server itself could not reach the store until a moment ago: then the
others could not either.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.hub import Hub
from posthouse.engine.lease import SharedLease
from posthouse.errors import PosthouseError, Unavailable
from posthouse.sharing import LiveServer, Servers
from posthouse.waiting import is_set_within

log = structlog.get_logger()

RENEWALS = 4
"""Renewals per length of a lease."""
STEADY_LEASES = 2.0
"""For how many lengths of a lease a server must have renewed its own in time before it declares another dead."""
LOOK_S = 2.0
"""Seconds between two looks at who owns what, without a notice of a change."""
AGAIN_S = 0.2
"""When free endpoints are claimed again that were locked."""
READ = 1000
"""Endpoints that are read from the store at once."""
HAND_OVERS = 8
"""Endpoints that are handed over at the same time."""
SKEW_S = 1.0
"""A larger difference between this machine's clock and the store's is reported as a trouble."""


@dataclass(slots=True)
class Owners:
    """Which server owns which endpoint, as seen by one of several servers."""

    hub: Hub
    lease: SharedLease
    url: str
    """Where other servers reach this one."""
    is_free: Callable[[EndpointId], bool] = lambda endpoint_id: True
    """Whether an endpoint can be handed over now: none of its commands is in flight."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """The URL of each other live server, by name; empty for one that leaves."""
    on_peer_lost: list[Callable[[str], None]] = field(default_factory=list)
    """Called with the URL of each server that is no longer alive."""
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _steady_since_s: float = math.inf
    """Since when every renewal was in time."""
    _skew_s: float = 0.0
    _owners: Mapping[EndpointId, str] = field(default_factory=dict)
    """The owner of each endpoint at the last look, also of deleted ones that still have workers."""
    _leaving: bool = False

    @property
    def _servers(self) -> Servers:
        return self.lease.servers

    async def register(self) -> None:
        """Makes this server known to the others. Raises: Unavailable."""
        await self.lease.register(self.url)
        await self._renew()

    def notice(self, topic: str) -> None:
        """Handles a notice that another server has changed something."""
        if topic == "owners":
            self._woken.set()

    async def keep_lease(self) -> None:
        """Renews the lease until it is cancelled."""
        while True:
            try:
                await self.renew()
            except Unavailable as error:
                log.warning("the lease could not be renewed: nothing new begins meanwhile", why=str(error)[:200])
            await asyncio.sleep(self.lease.length_s / RENEWALS)

    async def renew(self) -> None:
        """Renews the lease, and evicts servers whose lease has expired. Raises: Unavailable."""
        try:
            living = await self._renew()
        except Unavailable:
            self.lease.cut_off, self._steady_since_s = True, math.inf
            raise
        if living is None:
            await self._start_over()
            return
        steady = self.lease.steady_s() - self._steady_since_s >= STEADY_LEASES * self.lease.length_s
        if (
            steady
            and any(one.expired for one in living)
            and (dead := await self._servers.evict_expired(self.lease.server))
        ):
            log.warning("servers are dead: their endpoints are free", servers=list(dead))
            self._update_peers([one for one in living if one.name not in dead])

    async def keep_balance(self) -> None:
        """Rebalances after each notice and every `LOOK_S`, until it is cancelled."""
        while True:
            await is_set_within(self._woken, LOOK_S)
            self._woken.clear()
            try:
                await self.rebalance()
            except Unavailable as error:
                log.warning("endpoints could not be rebalanced", why=str(error)[:200])

    async def rebalance(self) -> None:
        """Claims free endpoints up to this server's fair share, or hands over the rest. Raises: Unavailable."""
        self._owners = owners = await self._servers.owners()
        own = {endpoint_id for endpoint_id, server in owners.items() if server == self.lease.server}
        for endpoint_id, server in owners.items():
            listed = self.hub.directory.get(endpoint_id)
            if listed is not None and listed.managed is None:
                listed.server = server
        await self._open(sorted(own - self.hub.endpoints.keys()))  # they could not be opened or closed
        share = 0 if self._leaving else self._fair_share(owners)
        free = sum(not server for server in owners.values())
        if len(own) < share and free:
            began_s, claimed = self.lease.steady_s(), await self._servers.claim(self.lease.server, share - len(own))
            self.lease.granted.update(claimed)
            await self._open(sorted(claimed))
            if claimed:
                log.info("took endpoints over", count=len(claimed), took_s=round(self.lease.steady_s() - began_s, 3))
            if len(claimed) < min(free, share - len(own)):  # locked by a transaction of their last owner, or of another
                asyncio.get_running_loop().call_later(AGAIN_S, self._woken.set)
        elif len(own) > share:
            movable = [e for e in sorted(own & self.hub.endpoints.keys(), reverse=True) if self.is_free(e)]
            await self._hand_over(movable[: len(own) - share])

    async def leave(self) -> None:
        """Hands over every endpoint, as far as possible, and removes this server."""
        self._leaving = True
        if self.lease.holds():
            with suppress(Unavailable):
                await self._servers.withdraw(self.lease.server)  # the others share what it has without it
            await self._hand_over(list(self.hub.endpoints))
        with suppress(Unavailable):
            await self._servers.deregister(self.lease.server)

    def is_leader(self) -> bool:
        """Whether this server does what only one server should do. Two may believe so for a moment."""
        return self.lease.holds() and not self.leader_url()

    def leader_url(self) -> str:
        """The URL of the server that does it; empty if it is this one."""
        first = min(self._staying(), default="")
        return self.peers[first] if first and first < self.lease.server else ""

    def owner_url(self, endpoint_id: EndpointId) -> str:
        """The URL of another live server that owns the endpoint; empty if there is none."""
        return self.peers.get(self._owners.get(endpoint_id, ""), "")

    def troubles(self) -> list[str]:
        """What fails, as texts for users."""
        cut_off = "the lease of this server could not be renewed: it routes, and begins nothing new"
        skew = f"this machine's clock and the database's differ by {self._skew_s:.1f} s"
        return [text for text, true in ((cut_off, not self.lease.holds()), (skew, abs(self._skew_s) > SKEW_S)) if true]

    async def _renew(self) -> Sequence[LiveServer] | None:
        asked_s = self.lease.steady_s()
        found = await self._servers.renew(self.lease.server, self.lease.length_s)
        if found is None:
            return None
        living, store_s = found
        self._skew_s = time.time() - store_s
        if math.isinf(self._steady_since_s) or not self.lease.holds():
            self._steady_since_s = asked_s
        self.lease.renewed(asked_s)
        self._update_peers(living)
        return living

    def _update_peers(self, living: Sequence[LiveServer]) -> None:
        before, peers = self.peers, {one.name: one.url for one in living if one.name != self.lease.server}
        self.peers, self.lease.others = peers, len(peers)
        if before != peers:
            self._woken.set()
        for url in filter(None, (before[name] for name in before.keys() - peers.keys())):
            for tell in self.on_peer_lost:
                tell(url)

    def _staying(self) -> list[str]:
        """Other live servers that do not leave."""
        return [name for name, url in self.peers.items() if url]

    async def _start_over(self) -> None:
        """Lets go of every endpoint, as other servers may own them now, and registers again."""
        log.warning("this server was declared dead: it starts again without endpoints")
        for endpoint_id in list(self.hub.endpoints):
            self.hub.let_go(endpoint_id)
        if not self._leaving:
            await self.register()

    def _fair_share(self, owners: Mapping[EndpointId, str]) -> int:
        """How many endpoints this server should own. Of a remainder, those that own most keep one more each."""
        counts = Counter(owners.values())
        servers = sorted([self.lease.server, *self._staying()], key=lambda name: (-counts[name], name))
        each, more = divmod(len(owners), len(servers))
        return each + (servers.index(self.lease.server) < more)

    async def _open(self, endpoint_ids: Sequence[EndpointId]) -> None:
        for first in range(0, len(endpoint_ids), READ):
            some = endpoint_ids[first : first + READ]
            try:
                await self.hub.take_over_all(some)
            except Unavailable:
                raise
            except PosthouseError as error:
                if len(some) > 1:  # the others can be
                    for endpoint_id in some:
                        await self._open([endpoint_id])
                    continue
                log.error("an endpoint could not be taken over", endpoint=int(some[0]), error=str(error)[:300])

    async def _hand_over(self, endpoint_ids: Sequence[EndpointId]) -> None:
        turns = asyncio.Semaphore(HAND_OVERS)

        async def one(endpoint_id: EndpointId) -> None:
            async with turns:
                try:
                    await self.hub.hand_over(endpoint_id)
                except (PosthouseError, KeyError) as error:  # it was let go meanwhile
                    log.warning(
                        "an endpoint could not be handed over", endpoint=int(endpoint_id), why=repr(error)[:300]
                    )

        await asyncio.gather(*(one(endpoint_id) for endpoint_id in endpoint_ids))
