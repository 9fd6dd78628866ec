"""The answer of another server, as it comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from posthouse.http1.messages import Headers

if TYPE_CHECKING:
    from posthouse.http1.upstream import Link

MAX_BUFFERED: Final = 65_536
"""Bytes of an answer that wait to be read before reading stops."""


class Lost(Exception):
    """There is no whole answer. `begun`: the server may have begun to work. `stale`: it ended a connection that had
    been kept, and most likely never read the request."""

    def __init__(self, why: str, begun: bool = True, stale: bool = False) -> None:
        super().__init__(why)
        self.begun = begun
        self.stale = stale


class Reply:
    """The answer to one request. `close` it in any case."""

    status = 0
    reason = b""
    headers: Headers
    begun = False
    """Its head has come."""
    whole = False
    """All of it has come."""
    _size = 0
    _failed: Exception | None = None
    _waiter: asyncio.Future[None] | None = None
    _sink: Callable[[bytes], None] | None = None
    _writable: asyncio.Event

    def __init__(self, link: "Link", is_head: bool) -> None:
        """`is_head`: it has no body, whatever its head says."""
        self.is_head = is_head
        self._link = link
        self._pieces: list[bytes] = []

    async def begin(self) -> bytes:
        """The first of the body, once the head and that are there; empty if there is none. Raises: Lost."""
        while not (self.begun and (self._pieces or self.whole)):
            await self._more()
        return self._take()

    async def read(self, most: int, begun: bytes = b"") -> bytes:
        """The rest of the body, after what has `begun` it. Raises: Lost, also where it is longer than `most` bytes."""
        body = bytearray(begun)
        while True:
            body += self._take()
            if len(body) > most:
                raise Lost(f"the answer is longer than {most} bytes")
            if self.whole:
                return bytes(body)
            await self._more()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The rest of the body as it comes. Raises: Lost."""
        while True:
            if piece := self._take():
                yield piece
            elif self.whole:
                return
            else:
                await self._more()

    async def pour(self, sink: Callable[[bytes], None], writable: asyncio.Event) -> None:
        """Calls `sink` with each piece of the rest as it comes, but with none while the event is not set. Returns at
        the end. Raises: Lost, and what `sink` raises."""
        self._sink, self._writable = sink, writable
        try:
            while True:
                if not writable.is_set():
                    self._link.pause()
                    await writable.wait()
                    self._link.resume()
                if piece := self._take():
                    sink(piece)
                elif self.whole:
                    return
                else:
                    await self._more()
        finally:
            self._sink = None

    def close(self) -> None:
        """Ends the connection at once, unless all of the answer has come."""
        if not self.whole:
            self._link.transport.abort()

    # -- what its connection tells ---------------------------------------------------------------------------------

    def feed(self, body: bytes) -> None:
        self._pieces.append(body)
        self._size += len(body)

    def fail(self, error: Exception) -> None:
        if self._failed is None and not self.whole:
            self._failed = error
            self._wake()

    def deliver(self) -> None:
        """All that has come at once has been read."""
        if self._sink is not None and self._writable.is_set():
            if self._pieces:
                try:
                    self._sink(self._take())
                except Exception as error:  # noqa: BLE001 - `pour` raises it
                    self.fail(error)
            if self.whole or not self._writable.is_set():
                self._wake()
            return
        if self._size > MAX_BUFFERED:
            self._link.pause()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces, self._size = [], 0
        if self._link.paused:
            self._link.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _more(self) -> None:
        """Wait until there may be more of it. Raises: what it failed with."""
        if self._failed is not None:
            raise self._failed
        self._waiter = self._link.loop.create_future()
        await self._waiter
