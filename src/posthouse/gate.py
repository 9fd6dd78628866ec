"""Connections of clients: accepted within bounds of number, time and bytes until their client has shown a proof."""

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from posthouse.hosts import bind_failure, in_url
from posthouse.places import Places

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 65_536
"""Longest line of a head, and nearly the longest head."""
IDLE_S: Final = 75.0
"""How long a connection stays open between two requests: nginx's default."""

_HEAD_S: Final = 20.0  # until a head has come, from its first byte or from the connection's beginning
_LINGERS_S: Final = 10.0  # in which the rest of a refused body may come, so that its client reads the answer
_HANDSHAKE_S: Final = 10.0
_BODY_S: Final = 20.0  # until an unproven body has come, and one second more for each `_RATE_BYTES` of it
_RATE_BYTES: Final = 16_384
_CHUNK_BYTES: Final = 2**16
_UNPACKED_BYTES: Final = 2**22  # of a body before its proof, in some 10 ms
_SPARE_FILES: Final = 160  # for what is accepted at once, the model server's pipe, files, calls of the server
_RETRY_S: Final = 0.1  # after the system had no more descriptors
_BACKLOG: Final = 512


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there. Raises: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {in_url(host)}:{port}: {bind_failure(error)}") from None
    with listener:
        listener.setblocking(False)
        yield listener


class TooSlow(Exception):
    """The body does not come in time, or others need its place."""


class TooLarge(Exception):
    """The body is larger than it may be."""


class Connection(web.RequestHandler):
    """One connection. Each request on it is announced by `begin`, before anything is done for it, and `end`."""

    def __init__(self, gate: "Gate", server: web.Server, place: "Place") -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # as the runner of aiohttp does
            lingering_time=_LINGERS_S,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            auto_decompress=False,  # a small body may be a large one
        )
        self._gate = gate
        self.place = place
        self.head_bytes = 0
        """What has come of a head."""
        self.since = time.monotonic()
        """When it began to wait for a request, or for the rest of one."""
        self.limit_s: float | None = _HEAD_S
        """How long it may; None while a request is served."""
        self.lingers = False
        """What comes is the rest of a body that was refused."""
        self.slow = False
        """The rest of it is not waited for."""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._gate.left(self.place)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.limit_s is not None and not self.lingers:
            if self.head_bytes > MAX_HEAD_BYTES:  # and the head has not ended since
                self.place.end()
                return
            if not self.head_bytes:
                self.since, self.limit_s = time.monotonic(), _HEAD_S
            self.head_bytes += len(data)
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self.begin()

    def begin(self) -> None:
        """A head has come."""
        self.head_bytes, self.limit_s, self.lingers = 0, None, False

    def end(self, has_come: bool) -> None:
        """The request is answered. `has_come`: all of it, so that the next bytes are another."""
        self.head_bytes, self.since = 0, time.monotonic()
        self.limit_s, self.lingers = IDLE_S if has_come else 0.0 if self.slow else _LINGERS_S, not has_come


class Place:
    """A client's place: a socket, and then a connection on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Wait for no more of the request once it is answered."""
        if self.connection is not None:
            self.connection.slow = True

    def end(self) -> None:
        """Close it at once, whatever is on its way."""
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        elif self.task is not None:
            self.task.cancel()


class Gate:
    """Where clients come in."""

    def __init__(self, max_connections: int, max_body_bytes: int) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(16, min(max_connections, (files - _SPARE_FILES) // 2))  # each request has one to the model server
        self._places: Places[Place] = Places(most, max_body_bytes)
        self._open: set[Place] = set()
        self._max_body_bytes = max_body_bytes

    @contextlib.contextmanager
    def reading(self, client: web.Request) -> Iterator["Reader"]:
        """A reader of the body of `client`, which counts as unproven until the end of this."""
        try:
            yield Reader(self._places, client, self._max_body_bytes)
        finally:
            self._places.release(place_of(client))

    async def run(self, server: web.Server, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Run until cancelled: accept connections, and close those that are late."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._close_late())
            while True:
                try:
                    sock, peer = await loop.sock_accept(listener)
                except OSError as error:  # most likely there are no more descriptors
                    log.warning("connections: %s; %d are open", error, len(self._places))
                    await asyncio.sleep(_RETRY_S)
                    continue
                place = Place(sock)
                leaves = self._places.add(place, peer[0])
                if leaves is place:
                    sock.close()
                    continue
                self._open.add(place)
                place.task = group.create_task(self._connect(server, place, context))
                if leaves is not None:
                    leaves.end()

    def prove(self, client: web.Request) -> None:
        """Note that this client has shown a good proof."""
        self._places.prove(place_of(client))

    def left(self, place: Place) -> None:
        """Note that a connection has ended."""
        self._open.discard(place)
        self._places.remove(place)

    async def _connect(self, server: web.Server, place: Place, context: ssl.SSLContext | None) -> None:
        def connection() -> Connection:
            place.connection = Connection(self, server, place)
            return place.connection

        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                connection, place.sock, ssl=context, ssl_handshake_timeout=_HANDSHAKE_S if context else None
            )
        except (OSError, asyncio.CancelledError) as error:  # it has left, does not know TLS, or has to go
            self.left(place)
            place.sock.close()
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _close_late(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for place in list(self._open):
                late = place.connection
                if late is not None and late.limit_s is not None and now - late.since > late.limit_s:
                    place.end()


def unpacked(body: bytes, coding: str) -> bytes:
    """Return the body without its content coding. Raises: TooLarge, where that makes too much of it, or is unknown."""
    if coding == "identity":
        return body
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise TooLarge(f"body: is {coding!r}; without its proof in a header it must be plain, gzip or deflate")
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # by its own head
    try:
        plain = unpacking.decompress(body, _UNPACKED_BYTES)
    except zlib.error:
        return b""  # which is no request
    if unpacking.unconsumed_tail:
        raise TooLarge(f"body: is more than {_UNPACKED_BYTES} bytes unpacked; bring its proof in a header")
    return plain


class Reader:
    """Reads the body of a client that has shown no proof yet."""

    def __init__(self, places: "Places[Place]", client: web.Request, max_bytes: int) -> None:
        self._places = places
        self._client = client
        self._max_bytes = max_bytes

    async def read(self) -> bytes:
        """Return the body. Raises: TooLarge, TooSlow."""
        client = self._client
        if (client.content_length or 0) > self._max_bytes:
            raise TooLarge
        began_at = asyncio.get_running_loop().time()
        body = bytearray()
        try:
            async with asyncio.timeout_at(began_at + _BODY_S) as limit:
                async for chunk in client.content.iter_chunked(_CHUNK_BYTES):
                    body += chunk
                    limit.reschedule(began_at + _BODY_S + len(body) / _RATE_BYTES)
                    if len(body) > self._max_bytes:
                        raise TooLarge
                    self._hold(len(chunk))
        except TimeoutError:
            raise TooSlow from None
        return bytes(body)

    def _hold(self, size: int) -> None:
        """Count what has come, and end who holds too much. Raises: TooSlow if that is this one."""
        own = place_of(self._client)
        for place in self._places.hold(own, size):
            if place is own:
                raise TooSlow
            place.end()


def place_of(client: web.Request) -> Place:
    """Return the place of the client that this request is of."""
    connection = client.protocol
    assert isinstance(connection, Connection)
    return connection.place


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: tells the connection when a request begins and ends."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.begin()
    try:
        return await handler(request)
    finally:
        connection.end(has_come=request.content.is_eof())
