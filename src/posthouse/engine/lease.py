"""Which endpoints a server may run: all of them if its store is not shared, else those that it owns by its lease."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.clock import STEADY
from posthouse.sharing import Servers

MARGIN: Final = 0.1
"""The part of a lease by which it ends earlier here than in the store, as clocks run at slightly different speeds."""


def steady_s() -> float:
    """Seconds of a clock that is never set, and that goes on while this process or its machine is suspended."""
    return time.clock_gettime(STEADY)


@dataclass(frozen=True, slots=True)
class SoleLease:
    """The `Lease` port of a single server: it owns every endpoint, guarded by the lock of its data directory."""

    epoch: int = 1
    """Of this start: an earlier process that still runs can no longer write."""
    server: str = "this server"

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        return self.epoch

    async def release(self, endpoint_id: EndpointId) -> None:
        return

    async def owner(self, endpoint_id: EndpointId) -> str:
        return self.server

    def holds(self) -> bool:
        return True

    def is_shared(self) -> bool:
        return False

    def server_count(self) -> int:
        """How many live servers share the store."""
        return 1


@dataclass(slots=True)
class SharedLease:
    """The `Lease` port of one of several servers: one lease covers all that it owns."""

    servers: Servers
    server_id: str
    """Stays the same over restarts."""
    length_s: float
    steady_s: Callable[[], float] = steady_s
    server: str = ""
    """The name under which it is registered; a new one after each `register`."""
    granted: dict[EndpointId, int] = field(default_factory=dict)
    """Epochs of endpoints that were claimed and are not open yet."""
    others: int = 0
    """How many other servers were alive at the last renewal."""
    cut_off: bool = False
    """Whether the latest renewal failed."""
    _until_s: float = 0.0
    """Until when the lease is known to hold, by `steady_s`."""

    async def register(self, url: str) -> None:
        """Registers under a new name. Raises: Unavailable."""
        self.server, self._until_s = f"{self.server_id}-{secrets.token_hex(4)}", 0.0
        self.granted.clear()
        await self.servers.register(self.server, url, self.length_s)

    def renewed(self, asked_s: float) -> None:
        """Notes a renewal by a call that began at `asked_s`."""
        self.cut_off, self._until_s = False, asked_s + self.length_s * (1 - MARGIN)

    def holds(self) -> bool:
        return self.steady_s() < self._until_s

    def may_be_lost(self) -> bool:
        """Whether other servers may own its endpoints by now: it was suspended, and has not looked yet. While the
        store cannot be reached, nobody can claim anything."""
        return not self.cut_off and self.steady_s() >= self._until_s

    def is_shared(self) -> bool:
        return True

    def server_count(self) -> int:
        """How many live servers share the store."""
        return 1 + self.others

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        epoch = self.granted.pop(endpoint_id, None)
        return await self.servers.acquire(self.server, endpoint_id) if epoch is None else epoch

    async def release(self, endpoint_id: EndpointId) -> None:
        await self.servers.release(self.server, endpoint_id)

    async def owner(self, endpoint_id: EndpointId) -> str:
        return (await self.servers.owners()).get(endpoint_id, "")
