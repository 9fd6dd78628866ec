"""Where callers of a gateway come in: their connections, and their requests."""

import resource
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from posthouse import tracing
from posthouse.gateway.errors import Refused
from posthouse.http1 import connection, request
from posthouse.http1.messages import Answer, Headers
from posthouse.http1.server import HttpServer

_HEAD_S: Final = 20.0  # until a head has come, and a body whose size is no matter
_RATE_BYTES: Final = 16_384  # of a body, that must come in a second
_LINGERS_S: Final = 10.0  # in which the rest of a refused body may come, so that its client reads the answer
_SPARE_FILES: Final = 160  # for what is accepted at once, files, calls of the server
AT_ONCE: Final = 32  # requests begun in one turn of the event loop: some 3 ms


@dataclass(slots=True)
class Head:
    """Of a request, and of those that have the same one."""

    method: str
    version: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    last: bool
    """The connection ends with the answer."""
    values: dict[bytes, str] = field(init=False)
    """The first header of each name."""
    passed_on: dict[bool, Headers] = field(default_factory=dict)
    """What a worker gets of the headers; by whether the body is JSON."""

    def __post_init__(self) -> None:
        self.values = {name: value.decode("latin-1") for name, value in reversed(self.headers)}


class Request(request.Request):
    """One request of a caller. It is cancelled when its caller leaves."""

    connection: "Connection"
    streams = False
    """Its body is passed on while it comes."""

    def __init__(self, connection: "Connection", head: Head) -> None:
        super().__init__(connection, head.method, head.version, head.headers, head.last)
        self.head = head
        self.path = head.path
        self.route = ""
        """Its path, of those that there are."""
        self.span: tracing.Span | None = None
        """The whole of it, where it is traced."""
        self.part: tracing.Span | None = None
        """What is done of it now: a worker is waited for, or asked."""
        self.id = ""
        """What the caller calls it, or else we."""

    def begin(self) -> None:
        self.connection.server.begin_soon(self)

    def begin_now(self) -> None:
        if not self._gone:
            super().begin()

    async def run(self) -> None:
        await self.connection.server.answer(self)

    def leave(self) -> None:
        super().leave()
        if self._task is not None:
            self._task.cancel()

    def header(self, name: bytes) -> str:
        """The value of a header, whose name is in lower case; empty if there is none."""
        return self.head.values.get(name, "")

    def trace(self, name: str, **attributes: str) -> None:
        """What was done of it is over, and the next begins."""
        if self.part is not None:
            self.part.end()
        if self.span is not None:
            self.part = tracing.begin(name, self.span, "CLIENT", **attributes)

    @property
    def content_type(self) -> str:
        """Of the body, without parameters, in lower case."""
        return self.header(b"content-type").partition(";")[0].strip().lower()

    @property
    def has_body(self) -> bool:
        return bool(self.length) or b"transfer-encoding" in self.head.values

    @property
    def proven(self) -> bool:
        return self.connection.proven

    def prove(self) -> None:
        """The caller has shown a good key."""
        self.connection.prove()

    def answer(self, status: int, body: bytes, headers: Headers) -> None:
        """Sends an answer in one piece."""
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self.write(body, more=False)

    def abort(self) -> None:
        """Breaks the connection, so that the caller sees that the answer is not whole."""
        self.connection.transport.abort()


class Connection(connection.Connection):
    """A connection of a caller."""

    server: "Inward"
    _open: Request | None

    @property
    def proven(self) -> bool:
        return self._proven

    @property
    def read_wait_s(self) -> float:
        if self._open is None:
            return _HEAD_S
        if self._open is not self._current and not self._queue:  # it has been refused
            return _LINGERS_S
        if self._open.streams:
            return float("inf")  # it has bounds of its own
        return _HEAD_S + self._came / _RATE_BYTES

    def opened(self, method: str, version: str, path: str, raw_path: bytes, query: bytes, last: bool) -> None:
        self.receive(Request(self, Head(method, version, path, raw_path, query, self._headers, last)))

    def repeated(self, request: Request, body: bytes) -> None:
        self.announced, self.since = len(body), self.loop.time()
        again = Request(self, request.head)
        again.feed(body)
        again.complete()
        self._accept(again)

    def on_message_complete(self) -> None:
        if (request := self._open) is not None and not (self.expects or self._came):  # all has come at once
            self._last = request, request.body
        super().on_message_complete()

    def overload_answer(self, method: str, path: str) -> Answer:
        refused = Refused(503, "busy", "the gateway has too many connections; try again", retry_s=1.0)
        return Answer(refused.status, refused.body())


class Inward(HttpServer):
    """The callers of a gateway. `answer` answers a request."""

    def __init__(
        self, answer: Callable[[Request], Awaitable[None]], max_connections: int, largest_bytes: int, stall_s: float
    ) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(16, min(max_connections, (files - _SPARE_FILES) // 2))  # each request has one to a worker
        super().__init__(most, largest_bytes, stall_s)
        self.answer = answer
        self._due: deque[Request] = deque()

    def connection(self) -> Connection:
        return Connection(self)

    def begin_soon(self, request: Request) -> None:
        """Begins to answer it, some in each turn of the event loop: however many come together, streams go on."""
        if not self._due:
            request.connection.loop.call_soon(self._begin_some)
        self._due.append(request)

    def _begin_some(self) -> None:
        for _ in range(min(len(self._due), AT_ONCE)):
            request = self._due.popleft()
            request.begin_now()
        if self._due:
            request.connection.loop.call_soon(self._begin_some)
