"""Which endpoints a server may run: all, where it has the store to itself, or those of its lease in a shared one."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.clock import STEADY
from posthouse.sharing import Servers

MARGIN: Final = 0.1
"""The share of a lease by which it ends sooner here than in the store: clocks differ a little in how fast they go."""


def steady_s() -> float:
    """Seconds by a clock that nobody sets, and that goes on while this process or its machine is stopped."""
    return time.clock_gettime(STEADY)


@dataclass(frozen=True, slots=True)
class SoleLease:
    """The `Lease` port of the only server: it has every endpoint. The lock of its data directory sees to that."""

    epoch: int = 1
    """Of this start: an earlier process that is still there may write no more."""
    server: str = "this server"

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        return self.epoch

    async def release(self, endpoint_id: EndpointId) -> None:
        return

    async def holder(self, endpoint_id: EndpointId) -> str:
        return self.server

    def holds(self) -> bool:
        return True

    def shares(self) -> bool:
        return False

    def count(self) -> int:
        """How many servers live that share the store."""
        return 1


@dataclass(slots=True)
class SharedLease:
    """The `Lease` port of one of several servers: one lease for all that it has, which it renews in time."""

    servers: Servers
    server_id: str
    """Of this server, in all its lives."""
    length_s: float
    steady_s: Callable[[], float] = steady_s
    server: str = ""
    """The name of this life; another one after each `begin`."""
    granted: dict[EndpointId, int] = field(default_factory=dict)
    """Epochs of what was claimed and is not open yet."""
    others: int = 0
    """How many other servers lived when it was renewed last."""
    cut_off: bool = False
    """The latest attempt to renew it failed."""
    _until_s: float = 0.0
    """Until when it is known to hold, by `steady_s`."""

    async def begin(self, url: str) -> None:
        """Begins a life. Raises: Unavailable."""
        self.server, self._until_s = f"{self.server_id}-{secrets.token_hex(4)}", 0.0
        self.granted.clear()
        await self.servers.enter(self.server, url, self.length_s)

    def renewed(self, asked_s: float) -> None:
        """Takes in that it was renewed by a call that began at `asked_s`."""
        self.cut_off, self._until_s = False, asked_s + self.length_s * (1 - MARGIN)

    def holds(self) -> bool:
        return self.steady_s() < self._until_s

    def is_doubtful(self) -> bool:
        """Whether it may be that others have by now what this server had, and could be asked: it was stopped, and has
        not looked yet. While the store cannot be used nobody can take anything."""
        return not self.cut_off and self.steady_s() >= self._until_s

    def shares(self) -> bool:
        return True

    def count(self) -> int:
        """How many servers live that share the store."""
        return 1 + self.others

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        epoch = self.granted.pop(endpoint_id, None)
        return await self.servers.take(self.server, endpoint_id) if epoch is None else epoch

    async def release(self, endpoint_id: EndpointId) -> None:
        await self.servers.free(self.server, endpoint_id)

    async def holder(self, endpoint_id: EndpointId) -> str:
        return (await self.servers.holders()).get(endpoint_id, "")
