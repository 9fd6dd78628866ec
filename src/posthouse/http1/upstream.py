"""Requests to other servers over connections that are kept, and their answers as they come."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from posthouse.http1.messages import NO_BODY, Headers
from posthouse.http1.reply import Lost, Reply

CONNECT_S: Final = 10.0
"""Until a server that accepts no connection counts as gone."""
IDLE_S: Final = 4.0
"""How long a connection is kept without a request: below the 5 s after which some servers close theirs."""
MAX_IDLE: Final = 256
"""Connections that are kept to one server without a request."""
MAX_HEAD_BYTES: Final = 262_144
"""Of an answer."""


class Origin(NamedTuple):
    """Where a server is."""

    tls: bool
    host: str
    port: int


@lru_cache(maxsize=4096)
def place_of(url: str) -> tuple[Origin, bytes, bytes]:
    """Where a server is whose base address that is, what the header Host says of it, and what its paths begin with.

    Raises: Lost where that is no address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host, path = parts.netloc.rpartition("@")[2].encode("ascii"), parts.path.rstrip("/").encode("ascii")
    except ValueError:  # a UnicodeError is one
        raise Lost("that is no address", begun=False) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or any(byte <= 32 for byte in host + path):
        raise Lost("that is no address of http:// or https://", begun=False)
    return Origin(parts.scheme == "https", parts.hostname, port), host, path


class Link(asyncio.Protocol):
    """One connection to a server: a request at a time."""

    transport: asyncio.Transport
    _reply: Reply | None = None
    _headers: Headers
    _reason = b""
    _sending: asyncio.Task[None] | None = None
    """What sends a body that is still coming."""
    _head_bytes = 0
    _uses = 0
    _came = _ended = _keeps = False
    paused = False
    """Nothing more of the answer is read now."""
    _framed = _until_close = False
    """The answer's body ends with the connection."""

    def __init__(self, upstreams: "Upstreams", origin: Origin) -> None:
        self.loop = asyncio.get_running_loop()
        self.origin = origin
        self.since = self.loop.time()
        """When something last happened on it, by the event loop's clock."""
        self._upstreams = upstreams
        self._writable = asyncio.Event()
        self._writable.set()
        self._parser = httptools.HttpResponseParser(self)

    def send(self, head: bytes, body: bytes | AsyncIterator[bytes], chunked: bool, is_head: bool) -> Reply:
        """Sends a request. `chunked`: the body goes in chunks."""
        self._reply = reply = Reply(self, is_head)
        self._came = self._ended = self._until_close = False
        self._head_bytes, self._uses, self.since = 0, self._uses + 1, self.loop.time()
        if isinstance(body, bytes):
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self._sending = self.loop.create_task(self._send(body, chunked))
        return reply

    async def _send(self, body: AsyncIterator[bytes], chunked: bool) -> None:
        try:
            async for piece in body:
                await self._writable.wait()
                self.since = self.loop.time()
                self.transport.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                self.transport.write(b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - the caller that waits for the answer raises it
            if self._reply is not None:
                self._reply.fail(error)
            self.transport.abort()

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.since = self.loop.time()
            self.transport.resume_reading()

    def end_if_silent(self, before: float, silence_s: float) -> None:
        """Ends it if nothing has happened since `before`, though it could."""
        if self._reply is not None and self.since < before and not self.paused:
            self._reply.fail(Lost(f"nothing came for {silence_s:g} s"))
            self.transport.abort()

    # -- what the transport tells ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._upstreams.links.add(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:  # nobody has asked
            self.transport.abort()
            return
        self._came, self.since = True, self.loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keeps = False
            if not reply.whole:  # else it is what follows the answer
                reply.fail(Lost("its answer is not HTTP"))
                self.transport.abort()
                return
        if not reply.begun:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                reply.fail(Lost("the head of its answer is too long"))
                self.transport.abort()
            return
        reply.deliver()
        if self._ended:
            self._release()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstreams.forget(self)
        self._writable.set()
        if self._sending is not None:
            self._sending.cancel()
        if (reply := self._reply) is not None:
            self._reply = None
            if self._until_close and exc is None:
                reply.whole = True
                reply.deliver()
            else:
                stale = self._uses > 1 and not self._came
                reply.fail(Lost("it closed the connection" if exc is None else str(exc), stale=stale))
        del self._parser  # it holds this

    def _release(self) -> None:
        self._reply = None
        if self._sending is not None:
            self._keeps = self._keeps and self._sending.done()
            self._sending.cancel()
            self._sending = None
        if self._keeps and not self.transport.is_closing():
            self.resume()
            self._upstreams.keep(self)
        else:
            self.transport.abort()

    # -- what the parser tells -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._headers, self._reason, self._framed = [], b"", False
        if self._ended:  # nobody has asked
            self._keeps = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length" or name == b"transfer-encoding":
            self._framed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status, reply = self._parser.get_status_code(), self._reply
        if status < 200 or self._ended or reply is None:
            return
        reply.status, reply.headers, reply.reason, reply.begun = status, self._headers, self._reason, True
        self._until_close = not self._framed and status not in NO_BODY
        self._headers = []  # trailers are not passed on
        if reply.is_head:
            self._ended, self._keeps, reply.whole = True, False, True

    def on_body(self, body: bytes) -> None:
        if self._reply is not None and not self._ended:
            self._reply.feed(body)

    def on_message_complete(self) -> None:
        if self._reply is not None and self._reply.begun and not self._ended:
            self._ended, self._keeps, self._reply.whole = True, self._parser.should_keep_alive(), True


class Upstreams:
    """Connections to servers. Call `every_second` so often."""

    def __init__(self, context: ssl.SSLContext, silence_s: float) -> None:
        """`context`: what certificates are checked with. `silence_s`: longest time without a byte of a server."""
        self._context = context
        self._silence_s = silence_s
        self.links: set[Link] = set()
        self._idle: dict[Origin, list[Link]] = {}

    async def ask(
        self,
        origin: Origin,
        head: bytes,
        body: bytes | AsyncIterator[bytes] = b"",
        chunked: bool = False,
        is_head: bool = False,
    ) -> Reply:
        """Sends a request and returns its answer, of which nothing has come. Raises: Lost."""
        idle = self._idle.get(origin)
        while idle:
            link = idle.pop()
            if link.since > link.loop.time() - IDLE_S and not link.transport.is_closing():
                return link.send(head, body, chunked, is_head)
            link.transport.abort()
        return (await self._connect(origin)).send(head, body, chunked, is_head)

    def keep(self, link: Link) -> None:
        """Takes back a connection that is idle."""
        idle = self._idle.setdefault(link.origin, [])
        if len(idle) < MAX_IDLE:
            idle.append(link)
        else:
            link.transport.abort()

    def forget(self, link: Link) -> None:
        """A connection has ended."""
        self.links.discard(link)
        idle = self._idle.get(link.origin, [])
        if link in idle:
            idle.remove(link)
        if not idle:
            self._idle.pop(link.origin, None)

    def every_second(self) -> None:
        """Ends the connections that have been idle or silent for too long."""
        now = asyncio.get_running_loop().time()
        for link in list(self.links):
            link.end_if_silent(now - self._silence_s, self._silence_s)
        for idle in list(self._idle.values()):
            for link in [link for link in idle if link.since <= now - IDLE_S]:
                link.transport.abort()

    def close(self) -> None:
        """Ends every connection."""
        for link in list(self.links):
            link.transport.abort()

    async def _connect(self, origin: Origin) -> Link:
        loop, context = asyncio.get_running_loop(), self._context if origin.tls else None
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await loop.create_connection(
                    lambda: Link(self, origin), origin.host, origin.port, ssl=context
                )
        except TimeoutError:
            raise Lost(f"it accepts no connection within {CONNECT_S:g} s", begun=False) from None
        except ssl.SSLCertVerificationError as error:
            said = f"its certificate is not trusted here, {error.verify_message}; POSTHOUSE_CA can name its root"
            raise Lost(said, begun=False) from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise Lost(why[:1].lower() + why[1:], begun=False) from None
        if link.transport.is_closing():
            raise Lost("it closed the connection", begun=False)
        return link
