"""One request that the ASGI application answers. Source: https://asgi.readthedocs.io/en/latest/specs/www.html"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from posthouse.server.connection import Connection

log = structlog.get_logger()

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
MAX_BUFFERED: Final = 65_536
"""Bytes of a body that wait for the application before reading stops."""
NO_BODY: Final = frozenset({204, 304})
"""Statuses of answers that have none."""


def http_scope(
    transport: asyncio.Transport,
    method: str,
    version: str,
    path: str,
    raw_path: bytes,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
) -> Message:
    """What the application is told of a request."""
    peer = transport.get_extra_info("peername")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method,
        "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": peer[:2] if isinstance(peer, tuple) else None,
        "server": transport.get_extra_info("sockname"),
        "state": {},
    }


class AsgiCall:
    """Runs the application for one request, and writes what it sends."""

    def __init__(self, connection: "Connection", scope: Message, last: bool, expects: bool) -> None:
        """`last`: the connection ends with the answer. `expects`: the client waits to be asked for the body."""
        self._connection = connection
        self._scope = scope
        self._is_head = scope["method"] == "HEAD"
        self._last = last
        self._expects = expects
        self._body = bytearray()
        self._more_body = True
        self._changed = asyncio.Event()
        """The body has grown or ended, or the client has gone."""
        self._waiting = False
        self._gone = False
        self._started = self._done = False
        self._silent = False
        """The answer has no body, whatever the application sends."""
        self._chunked = False
        self._left: int | None = None
        """Bytes of the answer that its content-length still promises; None where it promises none."""

    @property
    def waits(self) -> bool:
        """It goes on once more of its body has come."""
        return self._waiting and self._more_body and not self._changed.is_set()

    def begin(self) -> None:
        """Has the application answer it."""
        server = self._connection.server
        task = self._connection.loop.create_task(self._run(server.app))
        server.calls.add(task)
        task.add_done_callback(server.calls.discard)

    def feed(self, body: bytes) -> None:
        """Takes in the next piece of the body."""
        if self._done:
            return
        self._body += body
        if len(self._body) > MAX_BUFFERED:
            self._connection.pause_reading()
        self._changed.set()

    def complete(self) -> None:
        """The body has come."""
        self._more_body = False
        self._changed.set()

    def leave(self) -> None:
        """The client has gone."""
        self._gone = True
        self._changed.set()

    async def _run(self, app: App) -> None:
        try:
            await app(self._scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the seam of a request
            if self._done or self._gone:  # the application has answered, and told its log
                return
            log.error("the application failed", path=self._scope["path"], error=repr(error)[:500])
        if self._done or self._gone:
            return
        if self._started:
            self._connection.transport.abort()  # the client must not take half an answer for a whole one
            return
        self._last = True
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self._send({"type": "http.response.start", "status": 500, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def _receive(self) -> Message:
        connection = self._connection
        if self._expects:
            self._expects = False
            if not connection.transport.is_closing():
                connection.transport.write(CONTINUE)
        if not (self._gone or self._done):
            connection.resume_reading()
            self._waiting = True
            await self._changed.wait()
            self._changed.clear()
            self._waiting = False
        if self._gone or self._done:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def _send(self, message: Message) -> None:
        connection = self._connection
        if not (self._gone or connection.writable.is_set()):
            await connection.writable.wait()
        if self._gone or connection.transport.is_closing():
            return
        if message["type"] == "http.response.start" and not self._started:
            self._start(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self._started and not self._done:
            self._write(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"an ASGI message {message['type']!r} out of turn")

    def _start(self, status: int, headers: Any) -> None:
        self._started = True
        self._expects = False
        server = self._connection.server
        lines = [STATUS_LINES[status], server.date]
        length = None
        for name, value in headers:
            if any(byte in name + value for byte in b"\r\n\0"):
                raise RuntimeError(f"the value of the header {name!r} is not one line")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self._last = self._last or value.lower() == b"close"
                continue
            elif name == b"transfer-encoding":
                continue
            lines.append(b"%s: %s\r\n" % (name, value))
        self._last = self._last or server.parting
        self._silent = self._is_head or status in NO_BODY
        self._left = length
        if length is None and not self._silent:
            self._chunked = self._scope["http_version"] == "1.1"
            if self._chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self._last = True
        if self._last:
            lines.append(b"connection: close\r\n")
        self._connection.transport.write(b"".join([*lines, b"\r\n"]))

    def _write(self, body: bytes, more: bool) -> None:
        transport = self._connection.transport
        if self._silent:
            body = b""
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer is not as long as its content-length")
        if self._chunked and body:
            body = b"%x\r\n%s\r\n" % (len(body), body)
        if self._chunked and not more:
            body += b"0\r\n\r\n"
        if body:
            transport.write(body)
        if not more:
            self._done = True
            self._changed.set()
            self._connection.done(self._last)
