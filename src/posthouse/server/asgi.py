"""One request that the ASGI application answers. Source: https://asgi.readthedocs.io/en/latest/specs/www.html"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import structlog

from posthouse.http1.messages import Headers
from posthouse.http1.request import Request

if TYPE_CHECKING:
    from posthouse.server.connection import Connection

log = structlog.get_logger()

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def http_scope(
    transport: asyncio.Transport,
    method: str,
    version: str,
    path: str,
    raw_path: bytes,
    query: bytes,
    headers: Headers,
) -> Message:
    """The scope of a request, as the application gets it."""
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


class AsgiCall(Request):
    """Runs the application for one request, and writes what it sends."""

    connection: "Connection"
    _waiting = False

    def __init__(self, connection: "Connection", scope: Message, last: bool) -> None:
        """`last`: the connection ends with the answer."""
        super().__init__(connection, scope["method"], scope["http_version"], scope["headers"], last)
        self._scope = scope

    @property
    def waits(self) -> bool:
        """It goes on once more of its body has come."""
        return self._waiting and self._more_body and not self._changed.is_set()

    async def run(self) -> None:
        try:
            await self.connection.server.app(self._scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the seam of a request
            if self._done or self._gone:  # the application has answered, and logged the error
                return
            log.error("the application failed", path=self._scope["path"], error=repr(error)[:500])
        if self._done or self._gone:
            return
        if self._started:
            self.connection.transport.abort()  # the client must not take half an answer for a whole one
            return
        self._last = True
        self.start(500, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")])
        self.write(b"Internal Server Error", more=False)

    async def _receive(self) -> Message:
        self.ask_for_body()
        if not (self._gone or self._done):
            self.connection.resume_reading()
            self._waiting = True
            await self._changed.wait()
            self._changed.clear()
            self._waiting = False
        if self._gone or self._done:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def _send(self, message: Message) -> None:
        if self.connection.blocked_since and not self._gone:
            await self.connection.writable.wait()
        if self._gone or self.connection.transport.is_closing():
            return
        if message["type"] == "http.response.start" and not self._started:
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            self.start(message["status"], headers)
            self.flush()
        elif message["type"] == "http.response.body" and self._started and not self._done:
            self.write(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"an ASGI message {message['type']!r} out of turn")
