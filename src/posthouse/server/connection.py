"""One HTTP/1.1 connection: reads requests, answers the calls of the fast path at once, and hands the rest on.

httptools parses. Requests that come together are answered one after another; while one is answered, reading stops at
the next. Clients send the same head again and again on a connection: one that is the last one's, but for the body's
length, is not parsed, and answered once all that has come on other connections has been read: reading and answering by
turns would put each other out of the processor's caches.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

import httptools

from posthouse.server.asgi import CONTINUE, STATUS_LINES, AsgiCall, http_scope
from posthouse.server.calls import JSON, Answer, Call, Headers
from posthouse.server.errors import Problem, web_body
from posthouse.server.heads import KnownHead

if TYPE_CHECKING:
    from posthouse.server.http import HttpServer

MAX_HEAD_BYTES: Final = 65_536
"""Most that is read of a request's address and headers beyond the first read; clients of the protocol send 2,000."""
MAX_UNPROVEN_REQUEST_BYTES: Final = (262_144, 524_288)
"""Most that is read of a request that shows no good key in its head; and of one of the fast path: a worker shows its
token in the body, and may have many requests."""
TOO_LONG: Final = web_body(
    Problem(413, "too_large", "body: one this long needs a good key in the request's header Authorization")
)
PLAIN: Final = b"text/plain; charset=utf-8"


class Connection(asyncio.Protocol):
    """Its `server` knows what is served, and every other connection."""

    transport: asyncio.Transport
    address = ""
    """Of the client; empty where that is no address."""
    reading = True
    """It waits for a request, or for the rest of one; otherwise it answers one, or is idle."""
    _crowded = False
    """It came when there were too many: it is told so once, and closed."""
    _broken = False
    """What came was not HTTP: nothing more is read."""
    _proven = False
    """It has shown a good key."""
    _paused = _draining = _in_head = False
    _current: Call | AsgiCall | Answer | None = None
    """What is being answered."""
    _leave: Callable[[], None] | None = None
    """What tells the fast path that its client has gone."""
    _call: Call | None = None
    """The call of the fast path that is being read, with what has come of its body in `_body`."""
    _asgi: AsgiCall | None = None
    """The call of the application that is being read."""
    _body: bytes | bytearray = b""
    _expects = False
    """The client sends the body once it is asked for it."""
    _head_bytes = _came = _announced = 0
    _url = b""
    _headers: Headers
    _last_call: Call | None = None
    """The latest call of the fast path that has been read."""
    _last_head: KnownHead | None = None
    """The head of that call."""

    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()
        """When its present state began, by the event loop's clock."""
        self.writable = asyncio.Event()
        self._queue: deque[Call | AsgiCall | Answer] = deque()
        """What has come while another was being answered."""
        self._parser = self._new_parser()

    @property
    def idle(self) -> bool:
        """Nothing is being read or answered."""
        return not self.reading and self._current is None

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not (self._queue or self._broken or self.transport.is_closing()):
            self._paused = False
            self.transport.resume_reading()

    # -- what the transport tells ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.writable.set()
        self._crowded = self.server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.server.places.remove(self)
        self.writable.set()
        self._queue.clear()
        for call in (self._current, self._asgi):
            if isinstance(call, AsgiCall):
                call.leave()
        if self._leave is not None:
            self._leave()
        self._current = self._asgi = self._leave = None
        del self._parser  # it holds this connection

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self._broken or self.transport.is_closing():
            return
        # What has the head of the last call the parser would read as it did that one.
        head = self._last_head if self._current is None and not self.reading and self.writable.is_set() else None
        if head is not None and (body := head.body_of(data)) is not None:
            self._current = call = head.call
            call.body, call.counted = body, False
            self.loop.call_soon(self._answer, call)
            return
        between = not self.reading or self._headers is _NONE
        self._last_call = self._last_head = None
        if self._in_head:
            self._head_bytes += len(data)
        self._parse(data)
        if self.reading and not self._proven:
            self._came += len(data)
            for goes in self.server.places.hold(self, len(data)):
                goes.transport.abort()
            there = self._call or self._asgi  # else it has been answered
            if there and self._came > MAX_UNPROVEN_REQUEST_BYTES[there is self._call]:
                self._refuse(TOO_LONG, 413, JSON)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"The head of the request is too long.")
        elif between and self._last_call is not None:
            self._last_head = KnownHead.of(data, self._last_call)

    def _prove(self) -> None:
        self._proven = True
        self.server.places.prove(self)

    # -- what the parser tells -------------------------------------------------------------------------------------

    def _new_parser(self) -> httptools.HttpRequestParser:
        self._headers = _NONE
        parser = httptools.HttpRequestParser(self)
        # Or what follows a request that was the last would be an error, before that has been answered.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                self._refuse(b"Invalid HTTP request received.")
                return
            # RFC 9110 7.8: a server may ignore it. The parser cannot: it reads the head again, without it.
            head = _without_upgrade(self._parser, self._url, self._headers)
            self._parser = self._new_parser()
            self._parse(head + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(b"Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        self._url, self._headers, self._expects = b"", [], False
        self._in_head, self._head_bytes, self._came, self._announced = True, 0, 0, 0
        self.since, self.reading = self.loop.time(), True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        elif name == b"content-length":
            self._announced = int(value)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._in_head = False
        if self._crowded or parser.should_upgrade():
            return
        method, version = parser.get_method().decode(), parser.get_http_version()
        last = version == "1.0" or not parser.should_keep_alive()
        target = httptools.parse_url(self._url)
        raw_path, query = target.path, target.query or b""
        path = unquote(raw_path.decode("ascii"))
        if not self._proven and self.server.fast.knows(self._headers, query):
            self._prove()
        found = self.server.fast.find(method, path)
        if not self._proven and self._announced > MAX_UNPROVEN_REQUEST_BYTES[found is not None]:
            self._refuse(TOO_LONG, 413, JSON)
        elif found is None:
            scope = http_scope(self.transport, method, version, path, raw_path, query, self._headers)
            self._asgi = AsgiCall(self, scope, last, self._expects)
            self._accept(self._asgi)
        else:
            route, token = found
            self._call = Call(route, token, query, self._headers, self.address, last, method == "HEAD")
            self._body = b""
            self._ask_for_body()

    def on_body(self, body: bytes) -> None:
        if self._asgi is not None:
            self._asgi.feed(body)
        elif self._call is not None:
            if not self._body:
                self._body = body
            else:
                self._body = bytearray(self._body) if isinstance(self._body, bytes) else self._body
                self._body += body
            if len(self._body) > self.server.fast.most_bytes(self._call.route):  # refused now: no more is kept
                self._read(self._call)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._in_head = self.reading = False
        if not self._proven:
            self.server.places.release(self)
        if self._crowded:
            path = self._url.partition(b"?")[0].decode("latin-1")
            self._accept(self.server.fast.turned_away(self._parser.get_method().decode(), path))
        elif self._asgi is not None:
            self._asgi.complete()
            self._asgi = None
        elif self._call is not None:
            self._last_call = self._call
            self._read(self._call)

    def _read(self, call: Call) -> None:
        call.body, self._body = bytes(self._body), b""
        self._call = None
        self._accept(call)

    # -- answers, one after another --------------------------------------------------------------------------------

    def _accept(self, call: Call | AsgiCall | Answer) -> None:
        """Answers a call, when those before it have been answered."""
        if self.transport.is_closing():
            return
        if self._current is None:
            self._begin(call)
            return
        self._queue.append(call)
        self.pause_reading()

    def _begin(self, call: Call | AsgiCall | Answer) -> None:
        self._current = call
        if isinstance(call, Call):
            self._answer(call)
        elif isinstance(call, AsgiCall):
            call.begin()
        else:
            self._respond(call)

    def _answer(self, call: Call) -> None:
        """Has the fast path answer the call, now or later, unless its client has gone."""
        if self._current is not call or self.transport.is_closing():
            return
        if (leave := self.server.fast.answer(call, self._respond)) is not None:  # it is answered later
            self._leave = leave
        if call.proven and not self._proven:
            self._prove()

    def _respond(self, answer: Answer) -> None:
        """Writes the answer of the call that is being answered."""
        self._leave = None
        call = self._current
        if call is None or self.transport.is_closing():  # the client has gone
            return
        last, is_head = self.server.parting, False
        if isinstance(call, Call):
            self.server.fast.answers[call.route.path, answer.status] += 1
            last, is_head = last or call.last, call.is_head
        else:  # what cannot be read, or has no place
            last = True
        self.transport.write(_written(answer, self.server.date, last, is_head))
        self.done(last)

    def done(self, last: bool) -> None:
        """The present call has been answered: goes on with the next, or ends the connection."""
        self._current = None
        self.since = self.loop.time()
        if not self._proven:
            self.server.places.answered(self)
        if last:
            self.transport.close()
        if self._queue and not self._draining:  # a loop and no recursion: there may be a thousand
            self._draining = True
            while self._queue and self._current is None and not self.transport.is_closing():
                self._begin(self._queue.popleft())
            self._draining = False
        if self._paused:
            self.resume_reading()
        if self._expects:
            self._ask_for_body()

    def _ask_for_body(self) -> None:
        """Asks for the body of the call that is being read, where its client waits for that."""
        if self._expects and self._call is not None and self._current is None:
            self._expects = False
            self.transport.write(CONTINUE)

    def _refuse(self, why: bytes, status: int = 400, content_type: bytes = PLAIN) -> None:
        """Says what is wrong after the answers that are due, and ends the connection."""
        self._broken = True
        self._in_head = self.reading = False
        self.pause_reading()
        if self._asgi is not None and self._asgi is self._current:  # its body does not come any more
            self._asgi.leave()
            self._current = self._asgi = None
        self._accept(Answer(status, why, content_type))


def _written(answer: Answer, date: bytes, last: bool, is_head: bool) -> bytes:
    """The answer as it is sent. `last`: the connection ends with it. `is_head`: it goes without its body."""
    headers = b"connection: close\r\n" if last else b""
    for header in answer.headers:
        headers += b"%s: %s\r\n" % header
    head, body = _head(answer.status, date, answer.content_type), answer.body
    return b"%s%scontent-length: %d\r\n\r\n%s" % (head, headers, len(body), b"" if is_head else body)


@lru_cache(maxsize=64)  # the date changes once a second
def _head(status: int, date: bytes, content_type: bytes) -> bytes:
    return b"%s%scontent-type: %s\r\n" % (STATUS_LINES[status], date, content_type)


def _without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """The head that the parser has read, but for its offer of another protocol."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])


_NONE: Final[Headers] = []
"""Of no request."""
