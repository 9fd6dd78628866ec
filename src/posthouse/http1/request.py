"""One request: its body is read as it comes, and its answer is written piece by piece."""

import asyncio
from typing import TYPE_CHECKING, Final

from posthouse.http1.messages import CONTINUE, NO_BODY, STATUS_LINES, Headers, head

if TYPE_CHECKING:
    from posthouse.http1.connection import Connection

MAX_BUFFERED: Final = 65_536
"""Bytes of a body that wait to be read before reading stops."""


class Request:
    """Whoever serves says in `run` what becomes of it."""

    _task: asyncio.Task[None] | None = None
    _more_body = True
    _gone = False
    _started = _done = False
    status = 0
    """Of the answer; 0 while it has not begun."""
    _head = b""
    """Of the answer, until it is sent."""
    _silent = False
    """The answer has no body, whatever is written."""
    _chunked = False
    _left: int | None = None
    """Bytes of the answer that its content-length still promises; None where it promises none."""

    def __init__(self, connection: "Connection", method: str, version: str, headers: Headers, last: bool) -> None:
        """`last`: the connection ends with the answer."""
        self.connection = connection
        self.method = method
        self.version = version
        self.headers = headers
        self.length = connection.announced
        """Of the body, in bytes; None where the client does not say."""
        self._last = last
        self._expects = connection.expects
        """The client waits to be asked for the body."""
        self._body = bytearray()
        self._changed = asyncio.Event()
        """The body has grown or ended, or the client has gone."""

    async def run(self) -> None:
        """Answers it."""
        raise NotImplementedError

    # -- what its connection tells ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """It has its turn."""
        self._task = task = self.connection.loop.create_task(self.run())
        calls = self.connection.server.calls
        calls.add(task)
        task.add_done_callback(calls.discard)

    def feed(self, body: bytes) -> None:
        """Adds the next piece of the body."""
        if self._done:
            return
        self._body += body
        if len(self._body) > MAX_BUFFERED:
            self.connection.pause_reading()
        self._changed.set()

    def complete(self) -> None:
        """The body has come."""
        self._more_body = False
        self._changed.set()

    def leave(self) -> None:
        """The client has gone."""
        self._gone = True
        self._changed.set()

    @property
    def body(self) -> bytes:
        """What has come of the body, and has not been read."""
        return bytes(self._body)

    # -- its body --------------------------------------------------------------------------------------------------

    @property
    def has_come(self) -> bool:
        """All of the body is there, or has been read."""
        return not self._more_body

    async def read(self) -> bytes:
        """What has come of the body since the last call; waits while there is nothing. Empty at the end.

        Raises: ConnectionResetError where the client has gone before that.
        """
        while not self._body and self._more_body and not self._gone:
            self.ask_for_body()
            self.connection.resume_reading()
            self._changed.clear()
            await self._changed.wait()
        if self._gone:
            raise ConnectionResetError
        body = bytes(self._body)
        self._body.clear()
        return body

    def ask_for_body(self) -> None:
        if self._expects:
            self._expects = False
            if not self.connection.transport.is_closing():
                self.connection.transport.write(CONTINUE)

    # -- its answer ------------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """The answer has begun."""
        return self._started

    def start(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        """Begins the answer; it is sent with its first piece. The framing is ours. Raises: ValueError."""
        self._started, self.status = True, status
        self._last = self._last or self._expects  # it may send the body or leave it: nobody knows what comes next
        self._expects = False
        server = self.connection.server
        first = b"HTTP/1.1 %d %s\r\n" % (status, reason) if reason else STATUS_LINES.get(status)
        kept, dated, self._left = [], False, None
        for header in headers:
            name = header[0]
            if name == b"content-length":
                self._left = int(header[1])
            elif name == b"connection":
                self._last = self._last or header[1].lower() == b"close"
                continue
            elif name == b"transfer-encoding":
                continue
            elif name == b"date":
                dated = True
            kept.append(header)
        self._last = self._last or server.parting
        self._silent = self.method == "HEAD" or status in NO_BODY
        if self._left is None and not self._silent:
            self._chunked = self.version == "1.1"
            if self._chunked:
                kept.append((b"transfer-encoding", b"chunked"))
            else:
                self._last = True
        if self._last:
            kept.append((b"connection", b"close"))
        text = head(first or b"HTTP/1.1 %d \r\n" % status, kept)
        self._head = b"%s%s\r\n" % (text, b"" if dated else server.date)

    def flush(self) -> None:
        """Sends the head without waiting for the first piece."""
        if self._head:
            self.connection.transport.write(self._head)
            self._head = b""

    def write(self, body: bytes, more: bool = True) -> None:
        """Sends a piece; the last one without `more`. Raises: ValueError where the content-length is not kept."""
        if self._silent:
            body = b""
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise ValueError("the answer is not as long as its content-length")
        if self._chunked and body:
            body = b"%x\r\n%s\r\n" % (len(body), body)
        if self._chunked and not more:
            body += b"0\r\n\r\n"
        if self._head:
            body = self._head + body
            self._head = b""
        if body:
            self.connection.transport.write(body)
        if not more:
            self._done = True
            self._changed.set()
            self.connection.done(self._last)
