"""A server that runs: how it is stopped, restarted in place, and taken down with its workers."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from posthouse.app.datadir import Lock
from posthouse.app.gateway import OwnGateway
from posthouse.app.handover import Successor
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker
from posthouse.engine.hub import Hub
from posthouse.engine.loop import Loop
from posthouse.engine.observer import Observer
from posthouse.engine.router import Router
from posthouse.engine.stream import EventStream
from posthouse.errors import Refused
from posthouse.server.http import HttpServer

log = structlog.get_logger()

OVER = frozenset({State.WANTED, State.DESTROYING, State.DESTROYED})
"""States of workers of which there is nothing, or soon nothing will be."""
PARTING_S = 20.0
"""How long a restart in place waits for clients to end the connections of before, which each does with its next call.
Clients of the protocol close idle ones after 15 s."""
LAST_CALLS_S = 3.0
"""How long it then waits, no longer listening, for connections whose call has not come yet, and again for answers."""
QUIET_S = 0.2
"""Without a connection for this long, none is on its way any more, a TLS handshake included."""


@dataclass(slots=True)
class Running:
    """A server that runs."""

    url: str
    admin_key: str
    """The first admin key, on the very first start; empty afterwards: it is shown once."""
    hub: Hub
    loop: Loop
    observer: Observer
    router: Router
    stream: EventStream
    server: HttpServer
    listener: socket.socket
    lock: Lock
    gateway: OwnGateway | None = None
    successor: Successor | None = None
    """Who takes over at the end of the context."""
    takes_down: bool = False
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _restarting: asyncio.Task[None] | None = None

    async def until_stopped(self) -> None:
        """Waits until the server has been asked to stop, or a new process is ready to take over."""
        await self._told.wait()

    def stop(self, take_down: bool = False) -> None:
        """Asks the server to stop. `take_down`: its workers, too. A second call stops it at once."""
        self.takes_down = take_down
        self._told.set()

    async def take_down(self, tell: Callable[[str], None]) -> None:
        """Has every worker finish what it has and destroys it; returns when none is left, or when asked to stop again.

        The endpoints stay, and get workers again at the next start. `tell` hears how it goes.
        """
        self.loop.take_down()
        self._told.clear()
        said = ""
        while not self._told.is_set():
            workers = [w for managed in self.hub.endpoints.values() for w in managed.fleet.workers.values()]
            counts = Counter(str(w.state) for w in workers)
            busy = sum(managed.fleet.ledger.outstanding() > 0 for managed in self.hub.endpoints.values())
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            many = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
            now = f"{many} left: {states}" if workers else "no worker is left"
            now += f"; {busy} endpoints have work that is being finished" if busy and workers else ""
            if now != said:
                tell(now)
                said = now
            if not workers:
                return
            await asyncio.sleep(0.1)

    def workers_left(self) -> list[tuple[str, Worker]]:
        """The workers that outlive this server, each after the name of its endpoint."""
        return [
            (managed.fleet.endpoint.name or "a deleted endpoint", worker)
            for managed in self.hub.endpoints.values()
            for worker in managed.fleet.workers.values()
            if worker.state not in OVER
        ]

    def restart(self) -> None:
        """Begins a restart in place: a new process with the same command line takes over, without a refused call."""
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        try:
            gateway = self.gateway.listener if self.gateway is not None else None
            successor = await Successor.start(self.listener, self.lock.fd, gateway)
        except (Refused, OSError) as error:
            log.error("no restart: this process goes on", why=str(error))
            return
        try:
            await self._part()
        except BaseException:
            successor.dismiss()
            raise
        self.successor = successor
        self.stop()

    async def _part(self) -> None:
        """Asks every client to end its connection with its next call, and waits until they have."""
        self.server.parting = True
        self.stream.close()  # their viewers come back to the successor
        before = set(self.server.connections)
        await _within(PARTING_S, lambda: not before & self.server.connections)

    async def close(self) -> None:
        """Has the server answer the calls that have come, and end."""
        self.stream.close()
        if self._restarting is not None and self.successor is None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        if self.successor is not None:
            self.router.release()
            self.server.stop_listening()
            quiet_since = asyncio.get_running_loop().time()

            def quiet() -> bool:
                nonlocal quiet_since
                now = asyncio.get_running_loop().time()
                if self.server.connections:
                    quiet_since = now
                return now - quiet_since > QUIET_S

            await _within(LAST_CALLS_S, quiet)
            await self.server.close(LAST_CALLS_S)  # the successor waits: nobody prolongs that by half a request
            return
        await self.server.close()


async def _within(timeout_s: float, reached: Callable[[], bool]) -> None:
    """Waits for a condition, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not reached():  # noqa: ASYNC110 - connections end in many places
                await asyncio.sleep(0.02)
