"""uvicorn's HTTP protocol with limits of our own, and with `/route/` answered as soon as it has been read.

A request for a worker is answered from memory; the task, the two messages and the checks by which an ASGI application
answers cost as much again. So a call that takes no waiting is answered right where its last byte is parsed. Whatever is
unusual about it takes uvicorn's own way: another call, an error, a worker to wait for, a body in many pieces, an answer
before it on the same connection that is not out yet.

Clients send the same head again and again on a connection. One that is the last one's, byte for byte, is not parsed.
"""

from asyncio import Event, Transport
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from posthouse.server.hot import JSON, SPELLINGS, Hot

HEAD_BYTES = 65_536
"""Most that is read of a request's address and headers beyond the first read; clients of the protocol send 2,000."""
EARLY_BYTES = 65_536
"""Longest body of a call that is answered early; usual ones have less than 1,000 bytes."""
READ_WAIT_S = 40.0
"""How long a request may take to arrive, and a connection may stay silent before its first. The gate gives a body 30 s
and answers; this ends what goes on regardless."""
IDLE_S = 15.0
"""How long a connection is left idle when there are nearly too many. Clients of the protocol close theirs then."""
NEARLY = 0.9
"""Share of the most connections from which on idle ones are closed sooner."""
BEYOND = 1.25
"""Share of the most connections from which on new ones are not even answered."""

CROWDED = b"""HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n%s"""
CROWDED_ROUTE = b'{"endpoint":"","status":"the server has too many connections"}'
CROWDED_OTHER = b'{"success":false,"error":"busy","msg":"the server has too many connections: try again later"}'

_PATHS = frozenset(path.encode() for path, (normal, _) in SPELLINGS.items() if normal == "/route")
_NO_HEAD: tuple[object, bytes] = (None, b"")


class _Pending:
    """Stands in for the cycle of uvicorn while an early answer is awaited, so that the next request waits for it."""

    response_complete = False
    keep_alive = True
    """uvicorn sets it to False where the connection is to end with this answer."""
    disconnected = False
    message_event = Event()
    """Nobody waits for it; uvicorn sets it when the client leaves."""
    leave: Callable[[], None] | None = None
    """To be called when the client leaves."""


class Protocol(HttpToolsProtocol):
    """One connection. Serve with a class that `protocol_for` returns."""

    hot: Hot
    early: bool
    most: int
    """Connections that are served at a time."""
    since = 0.0
    """When its present state began, by the event loop's clock."""
    reading = True
    """It waits for a request, or for the rest of one; otherwise it answers one, or is idle."""
    _crowded = False
    """It came when there were too many: it is told so once, and closed."""
    _in_head = False
    _head_bytes = 0
    _read: bytes | None = None
    """The body so far of a call that may be answered early."""
    _body: bytes | None = None
    """The body of a call that has just been answered early."""
    _head = b""
    """The head of the last call, if it was answered early and came in one piece with its body."""
    _whole = 0
    """The bytes of that call, its body included; 0 if there is none."""
    _answer_head = _NO_HEAD
    """The beginning of a good answer, and the default headers it was made of, of which uvicorn makes new ones."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        count = len(self.connections)
        self._crowded = count > self.most
        if count > BEYOND * self.most:
            transport.abort()

    @property
    def idle(self) -> bool:
        return not self.reading and (self.cycle is None or self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        # What begins with the head of the last call, and is as long, the parser would read as it did the last.
        if len(data) == self._whole and data.startswith(self._head) and self.early and self._is_free():
            self._answer(data[len(self._head) :])
            return
        between, head = not self.reading, self.headers if self._in_head else None
        self._body = None
        super().data_received(data)
        if between and self._body is not None:
            last_head, end, rest = data.partition(b"\r\n\r\n")
            if rest == self._body:
                self._head, self._whole = last_head + end, len(data)
        if self._in_head and self.headers is head:  # all of it belongs to one head, which has not ended yet
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_head, self._head_bytes, self._read = True, 0, None
        self._whole = 0
        self.since, self.reading = self.loop.time(), True

    def on_headers_complete(self) -> None:
        self._in_head = False
        path, _, _ = self.url.partition(b"?")
        if self._crowded:
            return
        if self.early and path in _PATHS and self._is_usual():
            self._read = b""
        else:
            self._go_the_usual_way()

    def on_body(self, body: bytes) -> None:
        if self._crowded:
            return
        if self._read is None:
            super().on_body(body)
            return
        self._read += body
        if len(self._read) > EARLY_BYTES:
            self._go_the_usual_way(self._read)

    def on_message_complete(self) -> None:
        self.reading = False
        if self._crowded:
            self._turn_away()
            return
        if self._read is None:
            super().on_message_complete()
        else:
            body, self._read = self._read, None
            self._answer(body)

    def on_response_complete(self) -> None:
        """As uvicorn does, but without a timer for each connection that is idle then: `close_late` ends those."""
        self.since = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _turn_away(self) -> None:
        """Answers `/route/` that it waits: the protocol's client gives a request up for any error."""
        if self.url.partition(b"?")[0] in _PATHS:
            status, more, body = b"200 OK", b"", CROWDED_ROUTE
        else:
            status, more, body = b"503 Service Unavailable", b"retry-after: 1\r\n", CROWDED_OTHER
        self.transport.write(CROWDED % (status, len(body), more, body))
        self.transport.close()

    def _is_usual(self) -> bool:
        """True for a POST that nothing on this connection stands before, whose answer can be written at once."""
        parser = self.parser
        return (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and self._is_free()
        )

    def _is_free(self) -> bool:
        """True where an answer can be written at once."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline and not self.flow.write_paused

    def _answer(self, body: bytes) -> None:
        """Answers a usual call, at once if that takes no waiting."""
        self._body = body
        address, pending = self.client[0] if self.client else "", _Pending()
        query = self.url.partition(b"?")[2]
        pending.leave = self.hot.route(self.headers, query, body, address, partial(self._answered, pending))
        if not pending.response_complete:
            self.cycle = cast(Any, pending)

    def _answered(self, pending: _Pending, code: int, answer: bytes) -> None:
        later, pending.response_complete = cast(Any, self.cycle) is pending, True
        if not self.transport.is_closing():
            self._write(code, answer, last=later and not (pending.keep_alive and self.early))

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(self.cycle, _Pending) and not self.cycle.response_complete and self.cycle.leave is not None:
            self.cycle.leave()
        super().connection_lost(exc)

    def _write(self, code: int, answer: bytes, last: bool = False) -> None:
        """Sends an answer. `last`: and ends the connection."""
        self.hot.answers["/route", code] += 1
        made_of, head = Protocol._answer_head
        defaults = self.server_state.default_headers
        if made_of is not defaults:
            lines = b"".join(b"%s: %s\r\n" % header for header in defaults)
            head = b"%scontent-type: %s\r\ncontent-length: " % (lines, JSON)
            Protocol._answer_head = defaults, head
        ending = b"connection: close\r\n" if last else b""
        self.transport.write(b"%s%s%s%d\r\n\r\n%s" % (STATUS_LINE[code], ending, head, len(answer), answer))
        if last:
            self.transport.close()
        self.on_response_complete()

    def _go_the_usual_way(self, read: bytes = b"") -> None:
        """Makes of the request what uvicorn would have made of it so far."""
        self._read = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        if read:
            super().on_body(read)


def protocol_for(hot: Hot, early: bool, most: int = 10_000) -> type[Protocol]:
    """The protocol class of connections to `hot`, for uvicorn.

    `early`: `/route/` is answered early. `most`: connections that are served at a time.
    """
    return type("ConnectedProtocol", (Protocol,), {"hot": hot, "early": early, "most": most})


def close_late(connections: Iterable[Protocol], now: float) -> None:
    """Closes the connections whose request does not arrive, and those that are idle for long, or while others need
    their place.

    To be called every second or so. `now`: by the event loop's clock.
    """
    connections = list(connections)
    for connection in connections:
        waits_s = now - connection.since
        if connection.reading:
            if waits_s > READ_WAIT_S:
                connection.transport.abort()
        elif connection.idle and waits_s > IDLE_S:
            if len(connections) > NEARLY * connection.most:
                connection.transport.abort()
            elif waits_s > connection.config.timeout_keep_alive:
                connection.transport.close()
