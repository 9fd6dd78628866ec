"""The HTTP server: accepts connections, keeps their number and their time within bounds, and ends in order."""

import asyncio
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from email.utils import formatdate
from itertools import islice
from socket import AF_UNIX, IPPROTO_TCP, TCP_NODELAY, socket
from typing import Final

from posthouse.http1.connection import Connection
from posthouse.places import Places

BACKLOG: Final = 4096
"""How many connections may wait to be accepted: what Linux allows, unless net.core.somaxconn was set higher."""
KEEP_ALIVE_S = 75.0
"""How long an idle connection stays open: nginx's default. Clients must be the first to close one: a poll that meets a
server just closing is lost, and the protocol's client then gives up. It closes after 15 s."""
IDLE_S = 15.0
"""How long a connection stays idle when there are nearly too many. Clients of the protocol close theirs then."""
NEARLY = 0.9
"""Share of the most connections from which on idle ones are closed sooner."""
BEYOND = 1.25
"""Share of the most connections from which on new ones are not even answered."""
AT_ONCE: Final = 100
"""Connections that are looked at in one turn of the event loop. To look at ten thousand takes 5 to 10 ms, and to close
them half a second."""
GRACEFUL_S = 6.0
"""How long a stop waits for calls that are being answered; a held request takes at most 4."""
KEPT_S = 0.5
"""How long a stop keeps idle connections: a client that is just sending on one is answered, and told to close it."""


class HttpServer:
    """`max_connections`: how many are served at a time. When there are more, one goes that never showed a good key;
    where all did, the new one is told so once, and closed. `largest_bytes`: see `Places`. `stall_s`: how long a client
    may take nothing of its answer; 0 is forever.
    """

    def __init__(self, max_connections: int = 10_000, largest_bytes: int = 0, stall_s: float = 0.0) -> None:
        self.max_connections = max_connections
        self.max_answered = int(max_connections * BEYOND)
        """Connections beyond these are closed without a word."""
        self.connections: set[Connection] = set()
        self.places: Places[Connection] = Places(max_connections, largest_bytes)
        """Which of them goes when there are too many."""
        self.calls: set[asyncio.Task[None]] = set()
        """Requests that are being answered by a task."""
        self.parting = False
        """Every answer ends its connection."""
        self.closed = False
        """Every connection that is made from now on, whose handshake had begun before, is ended at once."""
        self.date = b""
        """The header Date, as a line."""
        self._stall_s = stall_s
        self._server: asyncio.Server | None = None
        self._update_date()

    async def start(self, listener: socket, tls: ssl.SSLContext | None = None) -> None:
        """Begins to accept connections."""
        loop = asyncio.get_running_loop()
        if listener.family != AF_UNIX:  # asyncio leaves Nagle's delay on what such a listener accepts; uvloop does not
            listener.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._server = await loop.create_server(self.connection, sock=listener, ssl=tls, backlog=BACKLOG)

    def connection(self) -> Connection:
        """The protocol of a new connection."""
        raise NotImplementedError

    def add(self, connection: Connection) -> bool:
        """Adds a new connection, and closes the one that has to go for it. True if it has no place."""
        self.connections.add(connection)
        goes = self.places.add(connection, connection.address)
        crowded = goes is connection
        if self.closed or (crowded and len(self.connections) > self.max_answered):
            connection.transport.abort()
        elif goes is not None and not crowded:
            goes.transport.abort()
        return crowded

    def every_second(self) -> None:
        """Keeps the time of answers, and closes connections that are late. To be called every second or so."""
        self._update_date()
        self._look_at(iter(list(self.connections)))

    def _look_at(self, connections: Iterator[Connection]) -> None:
        """Closes those that are late, some in each turn of the event loop."""
        loop = asyncio.get_running_loop()
        if some := list(islice(connections, AT_ONCE)):
            self.close_late(some, loop.time())
            loop.call_soon(self._look_at, connections)

    def close_late(self, connections: Iterable[Connection], now: float) -> None:
        """Closes those whose request does not arrive, whose client takes nothing, and those that are idle for long, or
        while others need their place. `now`: by the event loop's clock."""
        narrow = len(self.connections) > NEARLY * self.max_connections
        for connection in connections:
            waits_s = now - connection.since
            if self._stall_s and connection.blocked_since and now - connection.blocked_since > self._stall_s:
                connection.transport.abort()
            elif connection.reading:
                if waits_s > connection.read_wait_s:
                    connection.transport.abort()
            elif connection.idle and waits_s > IDLE_S:
                if narrow:
                    connection.transport.abort()
                elif waits_s > KEEP_ALIVE_S:
                    connection.transport.close()

    def stop_listening(self) -> None:
        """Accepts no connection from now on."""
        if self._server is not None:
            self._server.close()

    async def close(self, graceful_s: float = GRACEFUL_S) -> None:
        """Answers what has come, and what comes on kept connections, and ends them; after that time in any case."""
        self.stop_listening()
        self.parting = True
        loop = asyncio.get_running_loop()
        idle_until = loop.time() + KEPT_S
        with suppress(TimeoutError):
            async with asyncio.timeout(graceful_s):
                while True:
                    late = loop.time() >= idle_until
                    await asyncio.sleep(0.02)  # who was accepted before is there after it, and what had come is read
                    if not (self.connections or self.calls):
                        break
                    if late:
                        for connection in list(self.connections):
                            if connection.idle:
                                connection.transport.close()
        self.closed = True
        for connection in list(self.connections):
            connection.transport.abort()
        for call in self.calls:
            call.cancel()
        if self.calls:
            await asyncio.wait(self.calls)

    def _update_date(self) -> None:
        self.date = b"date: %s\r\n" % formatdate(time.time(), usegmt=True).encode()
