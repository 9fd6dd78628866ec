"""Shares the endpoints of an installation among its servers: each has as many, and those of the dead move.

Each renews its lease, takes what is free up to its share, and hands over what is beyond that. Whoever is late is dead,
but for a while after this server could not reach the store: then the others could not either.
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
from posthouse.sharing import LivingServer, Servers
from posthouse.waiting import is_set_within

log = structlog.get_logger()

RENEWALS = 4
"""How often a lease is renewed in its length."""
STEADY_LEASES = 2.0
"""How many lengths of a lease a server must have renewed its own in time before it takes another for dead."""
LOOK_S = 2.0
"""How often it is looked who has what, though nobody has told of a change."""
HAND_OVERS = 8
"""Endpoints that are handed over at once."""
SKEW_S = 1.0
"""A difference between this machine's clock and the store's that is told as a trouble."""


@dataclass(slots=True)
class Owners:
    """Runs in each of several servers."""

    hub: Hub
    lease: SharedLease
    url: str
    """Where the others reach this server."""
    is_free: Callable[[EndpointId], bool] = lambda endpoint_id: True
    """Whether an endpoint can be handed over at once: no command of it is on its way."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """Where each of the others that live is, by name."""
    on_gone: list[Callable[[str], None]] = field(default_factory=list)
    """Told the URL of each that lives no more."""
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _steady_since_s: float = math.inf
    """Since when every renewal has come in time."""
    _skew_s: float = 0.0
    _held_by: Mapping[EndpointId, str] = field(default_factory=dict)
    """Who has each endpoint, also those that were deleted and have workers still, as last looked."""
    _leaving: bool = False

    @property
    def _servers(self) -> Servers:
        return self.lease.servers

    async def begin(self) -> None:
        """Has this server live. Raises: Unavailable."""
        await self.lease.begin(self.url)
        await self._renew()

    def notice(self, topic: str) -> None:
        """Takes in that another server has changed something."""
        if topic == "owners":
            self._woken.set()

    async def run(self) -> None:
        """Renews the lease for ever."""
        while True:
            try:
                await self.renew()
            except Unavailable as error:
                log.warning("the lease could not be renewed: nothing new begins meanwhile", why=str(error)[:200])
            await asyncio.sleep(self.lease.length_s / RENEWALS)

    async def renew(self) -> None:
        """Renews the lease, and ends the lives of those who are late. Raises: Unavailable."""
        try:
            living = await self._renew()
        except Unavailable:
            self.lease.cut_off, self._steady_since_s = True, math.inf
            raise
        if living is None:
            await self._deposed()
            return
        steady = self.lease.steady_s() - self._steady_since_s >= STEADY_LEASES * self.lease.length_s
        if steady and any(one.late for one in living) and (dead := await self._servers.bury(self.lease.server)):
            log.warning("servers are dead: what they had is free", servers=list(dead))
            self._meet([one for one in living if one.name not in dead])

    async def share(self) -> None:
        """Sees for ever that everybody has a share: when something has changed, and every `LOOK_S`."""
        while True:
            await is_set_within(self._woken, LOOK_S)
            self._woken.clear()
            try:
                await self.share_out()
            except Unavailable as error:
                log.warning("endpoints could not be shared out", why=str(error)[:200])

    async def share_out(self) -> None:
        """Takes what is free, or hands over what is too much, so that everybody has as many. Raises: Unavailable."""
        self._held_by = holders = await self._servers.holders()
        own = {endpoint_id for endpoint_id, server in holders.items() if server == self.lease.server}
        for endpoint_id, server in holders.items():
            listed = self.hub.directory.get(endpoint_id)
            if listed is not None and listed.managed is None:
                listed.server = server
        for endpoint_id in own - self.hub.endpoints.keys():  # its opening or its end failed
            await self._open(endpoint_id)
        share = 0 if self._leaving else self._share(holders)
        if len(own) < share and any(not server for server in holders.values()):
            began_s, claimed = self.lease.steady_s(), await self._servers.claim(self.lease.server, share - len(own))
            self.lease.granted.update(claimed)
            for endpoint_id in claimed:
                await self._open(endpoint_id)
            if claimed:
                log.info("took endpoints over", count=len(claimed), took_s=round(self.lease.steady_s() - began_s, 3))
        elif len(own) > share:
            movable = [e for e in sorted(own & self.hub.endpoints.keys(), reverse=True) if self.is_free(e)]
            await self._hand_over(movable[: len(own) - share])

    async def leave(self) -> None:
        """Hands everything over, as far as that is possible, and ends this server's life."""
        self._leaving = True
        if self.lease.holds():
            await self._hand_over(list(self.hub.endpoints))
        with suppress(Unavailable):
            await self._servers.leave(self.lease.server)

    def leads(self) -> bool:
        """Whether this server does what one alone should do. Two may believe it for a moment."""
        return self.lease.holds() and all(self.lease.server < name for name in self.peers)

    def leader(self) -> str:
        """Where the server is that does it; empty if that is this one."""
        first = min(self.peers, default="")
        return self.peers[first] if first and first < self.lease.server else ""

    def url_of(self, endpoint_id: EndpointId) -> str:
        """Where the server is that has an endpoint; empty if none is known to live that has it."""
        return self.peers.get(self._held_by.get(endpoint_id, ""), "")

    def troubles(self) -> list[str]:
        """What fails, in words that anybody may read."""
        cut_off = "the lease of this server could not be renewed: it routes, and begins nothing new"
        skew = f"this machine's clock and the database's differ by {self._skew_s:.1f} s"
        return [text for text, true in ((cut_off, not self.lease.holds()), (skew, abs(self._skew_s) > SKEW_S)) if true]

    async def _renew(self) -> Sequence[LivingServer] | None:
        asked_s = self.lease.steady_s()
        found = await self._servers.renew(self.lease.server, self.lease.length_s)
        if found is None:
            return None
        living, store_s = found
        self._skew_s = time.time() - store_s
        if not self.lease.holds():
            self._steady_since_s = asked_s
        self.lease.renewed(asked_s)
        self._meet(living)
        return living

    def _meet(self, living: Sequence[LivingServer]) -> None:
        before, peers = self.peers, {one.name: one.url for one in living if one.name != self.lease.server}
        self.peers, self.lease.others = peers, len(peers)
        if before.keys() != peers.keys():
            self._woken.set()
        for name in before.keys() - peers.keys():
            for tell in self.on_gone:
                tell(before[name])

    async def _deposed(self) -> None:
        """Others may have what this server had: it begins anew, with nothing."""
        log.warning("this server was taken for dead: it begins anew")
        for endpoint_id in list(self.hub.endpoints):
            self.hub.let_go(endpoint_id)
        if not self._leaving:
            await self.begin()

    def _share(self, holders: Mapping[EndpointId, str]) -> int:
        """How many endpoints this server should have. Where they do not divide, who has most keeps one more."""
        counts = Counter(holders.values())
        servers = sorted([self.lease.server, *self.peers], key=lambda name: (-counts[name], name))
        each, more = divmod(len(holders), len(servers))
        return each + (servers.index(self.lease.server) < more)

    async def _open(self, endpoint_id: EndpointId) -> None:
        try:
            await self.hub.take_over(endpoint_id)
        except Unavailable:
            raise
        except PosthouseError as error:
            log.error("an endpoint could not be taken over", endpoint=int(endpoint_id), error=str(error)[:300])

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
