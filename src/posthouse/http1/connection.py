"""One HTTP/1.1 connection of a client: reads requests and answers them one after another.

httptools parses. While one request is answered, reading stops at the next. Clients send the same head again and again
on a connection: one that is the last one's, but for the body's length, is not parsed. Many connections never say a
word: what it takes to read a request is made when its first byte comes.
"""

import asyncio
from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import httptools

from posthouse.http1.heads import KnownHead
from posthouse.http1.messages import STATUS_LINES, Answer, Headers
from posthouse.http1.request import Request

if TYPE_CHECKING:
    from posthouse.http1.server import HttpServer

MAX_HEAD_BYTES: Final = 65_536
"""Most that is read of a request's address and headers beyond the first read; clients of the protocol send 2,000."""
PLAIN: Final = b"text/plain; charset=utf-8"
_NONE: Final[Headers] = []
"""Of no request."""


class Connection(asyncio.Protocol):
    """Its `server` knows every other connection. Who serves says by `opened` what becomes of a request."""

    transport: asyncio.Transport
    address = ""
    """Of the client; empty where that is no address."""
    reading = True
    """It waits for a request, or for the rest of one; otherwise it answers one, or is idle."""
    blocked_since = 0.0
    """Since when the client takes nothing of its answer, by the event loop's clock; 0 while it does."""
    _crowded = False
    """It came when there were too many: it is told so once, and closed."""
    _broken = False
    """What came was not HTTP: nothing more is read."""
    _proven = False
    """It has shown a good key."""
    _paused = _draining = _in_head = False
    _current: Any = None
    """What is being answered: a request, or an answer in its place."""
    _open: Request | None = None
    """The request that is being read."""
    expects = False
    """The client sends the body once it is asked for it."""
    _known: KnownHead | None = None
    """The head of the last request, while nothing has come since of which it is not the head."""
    _last: tuple[Any, bytes] | None = None
    """The last request that was read and may come again, with its body."""
    announced: int | None = None
    """Bytes of the body of the request that is being read; None where its head does not say."""
    _head_bytes = _came = 0
    _url = b""
    _headers: Headers = _NONE
    _parser: Any = None
    """An `httptools.HttpRequestParser`, from the first byte on."""
    _queue: deque[Any] | tuple[()] = ()
    """What has come while another was being answered."""

    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()
        """When its present state began, by the event loop's clock."""

    @cached_property
    def writable(self) -> asyncio.Event:
        """Set while the client takes its answer."""
        event = asyncio.Event()
        event.set()
        return event

    @property
    def idle(self) -> bool:
        """Nothing is being read or answered."""
        return self._current is None and (not self.reading or self._parser is None)

    # -- what who serves says --------------------------------------------------------------------------------------

    def opened(self, method: str, version: str, path: str, raw_path: bytes, query: bytes, last: bool) -> None:
        """A head has come: `receive` the request, or `_refuse` it. `last`: the connection ends with the answer."""
        raise NotImplementedError

    def repeated(self, request: Any, body: bytes) -> None:
        """A request like this one has come, with another body, and none is being answered."""
        raise NotImplementedError

    def overload_answer(self, method: str, path: str) -> Answer:
        """What a request is told for which there is no place."""
        raise NotImplementedError

    def too_long(self) -> Answer | None:
        """What a request is told of which so much has come without a good key; None where it goes on."""
        return None

    @property
    def read_wait_s(self) -> float:
        """How long the request that is being read may take to arrive."""
        raise NotImplementedError

    def receive(self, request: Request) -> None:
        """Takes the body of `request` as it comes, and begins to answer it once it has its turn."""
        self._open = request
        self._accept(request)

    def prove(self) -> None:
        """Notes that its client has shown a good key."""
        if not self._proven:
            self._proven = True
            self.server.places.prove(self)

    # -- what the transport tells ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._crowded = self.server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.server.places.remove(self)
        if self.blocked_since:
            self.resume_writing()
        self._queue = ()
        for request in (self._current, self._open):
            if isinstance(request, Request):
                request.leave()
        self._current = self._open = None
        self._parser = None  # it holds this connection

    def pause_writing(self) -> None:
        self.writable.clear()
        self.blocked_since = self.loop.time()

    def resume_writing(self) -> None:
        self.blocked_since = 0.0
        self.writable.set()

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not (self._queue or self._broken or self.transport.is_closing()):
            self._paused = False
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        # What has the head of the last request the parser would read as it did that one.
        known = self._known if self._current is None and not self.blocked_since else None
        if known is not None and (body := known.body_of(data)) is not None:
            self.repeated(known.request, body)
            return
        if self._broken or self.transport.is_closing():
            return
        between = not self.reading or self._headers is _NONE
        self._known = self._last = None
        self._read(data)
        if between and self._last is not None:
            self._known = KnownHead.of(data, *self._last)

    def _read(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        self._parse(data)
        if self.reading:
            self._came += len(data)
            if not self._proven:
                for goes in self.server.places.hold(self, len(data)):
                    goes.transport.abort()
                if (told := self.too_long()) is not None:
                    self._refuse(told)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(Answer(400, b"The head of the request is too long.", PLAIN))

    # -- what the parser tells -------------------------------------------------------------------------------------

    def _begin_to_parse(self) -> None:
        self._headers = _NONE
        self._parser = httptools.HttpRequestParser(self)
        # Or what follows a request that was the last would be an error, before that has been answered.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            self._begin_to_parse()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                self._refuse(_INVALID)
                return
            # RFC 9110 7.8: a server may ignore it. The parser cannot: it reads the head again, without it.
            head = _without_upgrade(self._parser, self._url, self._headers)
            self._begin_to_parse()
            self._parse(head + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(_INVALID)

    def on_message_begin(self) -> None:
        self._url, self._headers, self.expects = b"", [], False
        self._in_head, self._head_bytes, self._came, self.announced = True, 0, 0, None
        self.since, self.reading = self.loop.time(), True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expects = True
        elif name == b"content-length":
            self.announced = int(value)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._in_head = False
        if self._crowded or parser.should_upgrade():
            return
        method, version = parser.get_method().decode(), parser.get_http_version()
        last = version == "1.0" or not parser.should_keep_alive()
        target = httptools.parse_url(self._url)
        raw_path = target.path
        self.opened(method, version, unquote(raw_path.decode("ascii")), raw_path, target.query or b"", last)

    def on_body(self, body: bytes) -> None:
        if self._open is not None:
            self._open.feed(body)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._in_head = self.reading = False
        if not self._proven:
            self.server.places.release(self)
        if self._crowded:
            path = self._url.partition(b"?")[0].decode("latin-1")
            self._accept(self.overload_answer(self._parser.get_method().decode(), path))
        elif self._open is not None:
            self._open.complete()
            self._open = None
        else:
            self._complete()

    def _complete(self) -> None:
        """The body has come of a request that was not received as one."""

    # -- answers, one after another --------------------------------------------------------------------------------

    def _accept(self, request: Any) -> None:
        """Answers it, when those before it have been answered."""
        if self.transport.is_closing():
            return
        if self._current is None:
            self._begin(request)
            return
        if not self._queue:
            self._queue = deque()
        self._queue.append(request)
        self.pause_reading()

    def _begin(self, request: Any) -> None:
        self._current = request
        if isinstance(request, Request):
            request.begin()
        else:
            self._write(request, last=True)  # in place of what cannot be read, or has no place

    def _write(self, answer: Answer, last: bool, is_head: bool = False) -> None:
        """Writes the answer to the present request. `last`: it ends the connection; `is_head`: without its body."""
        headers = b"connection: close\r\n" if last else b""
        for header in answer.headers:
            headers += b"%s: %s\r\n" % header
        status, date, body = STATUS_LINES[answer.status], self.server.date, answer.body
        self.transport.write(
            b"%s%scontent-type: %s\r\n%scontent-length: %d\r\n\r\n%s"
            % (status, date, answer.content_type, headers, len(body), b"" if is_head else body)
        )
        self.done(last)

    def done(self, last: bool) -> None:
        """The present request has been answered: goes on with the next, or ends the connection."""
        self._current = None
        self.since = self.loop.time()
        if not self._proven:
            self.server.places.answered(self)
        if last:
            self.transport.close()
        if self._paused:
            if self._queue and not self._draining:  # a loop and no recursion: there may be a thousand
                self._draining = True
                while self._queue and self._current is None and not self.transport.is_closing():
                    self._begin(self._queue.popleft())
                self._draining = False
            self.resume_reading()
        if self.expects:
            self._ask_for_body()

    def _ask_for_body(self) -> None:
        """Asks for the body of what is being read, where it was not received as a request, and its client waits."""

    def _refuse(self, told: Answer) -> None:
        """Says what is wrong after the answers that are due, and ends the connection."""
        self._broken = True
        self._in_head = self.reading = False
        self.pause_reading()
        if self._open is not None and self._open is self._current:  # its body does not come any more
            self._open.leave()
            self._current = self._open = None
        self._accept(told)


def _without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """The head that the parser has read, but for its offer of another protocol."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])


_INVALID: Final = Answer(400, b"Invalid HTTP request received.", PLAIN)
