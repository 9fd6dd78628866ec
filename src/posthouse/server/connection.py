"""One connection of a client of the server: answers the calls of the fast path at once, and hands the rest on.

One whose head is known is answered once all that has come on other connections has been read: reading and answering by
turns would put each other out of the processor's caches.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from posthouse.http1 import connection
from posthouse.http1.messages import CONTINUE, Answer
from posthouse.server.asgi import AsgiCall, http_scope
from posthouse.server.calls import Call
from posthouse.server.errors import Problem, web_body

if TYPE_CHECKING:
    from posthouse.server.http import HttpServer

MAX_UNPROVEN_REQUEST_BYTES: Final = (262_144, 524_288)
"""Most that is read of a request that shows no good key in its head; and of one of the fast path: a worker shows its
token in the body, and may have many requests."""
TOO_LONG: Final = Answer(
    413,
    web_body(Problem(413, "too_large", "body: one this long needs a good key in the request's header Authorization")),
)
READ_WAIT_S = 40.0
"""How long a request may take to arrive, and a connection may stay silent before its first. The management API gives a
body 30 s and answers; this ends what goes on regardless."""


class Connection(connection.Connection):
    """Its `server` knows what is served, and every other connection."""

    server: "HttpServer"
    _leave: Callable[[], None] | None = None
    """What tells the fast path that its client has gone."""
    _call: Call | None = None
    """The call of the fast path that is being read, with what has come of its body in `_body`."""
    _body: bytes | bytearray = b""

    def __init__(self, server: "HttpServer") -> None:
        super().__init__(server)

    # -- what the transport tells ----------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._leave is not None:
            self._leave()
        self._leave = None

    # -- what has come ---------------------------------------------------------------------------------------------

    @property
    def read_wait_s(self) -> float:
        return READ_WAIT_S

    def opened(self, method: str, version: str, path: str, raw_path: bytes, query: bytes, last: bool) -> None:
        if not self._proven and self.server.fast.knows(self._headers, query):
            self.prove()
        found = self.server.fast.find(method, path)
        if not self._proven and (self.announced or 0) > MAX_UNPROVEN_REQUEST_BYTES[found is not None]:
            self._refuse(TOO_LONG)
        elif found is None:
            scope = http_scope(self.transport, method, version, path, raw_path, query, self._headers)
            self.receive(AsgiCall(self, scope, last))
        else:
            route, token = found
            self._call = Call(route, token, query, self._headers, self.address, last, method == "HEAD")
            self._body = b""
            self._ask_for_body()

    def repeated(self, request: Call, body: bytes) -> None:
        self._current = request
        request.body, request.counted = body, False
        self.server.answer_soon(self, request)

    def overload_answer(self, method: str, path: str) -> Answer:
        return self.server.fast.overload_answer(method, path)

    def too_long(self) -> Answer | None:
        there = self._call or self._open  # else it has been answered
        return TOO_LONG if there and self._came > MAX_UNPROVEN_REQUEST_BYTES[there is self._call] else None

    def on_body(self, body: bytes) -> None:
        if self._call is None:
            super().on_body(body)
            return
        if not self._body:
            self._body = body
        else:
            self._body = bytearray(self._body) if isinstance(self._body, bytes) else self._body
            self._body += body
        if len(self._body) > self.server.fast.most_bytes(self._call.route):  # refused now: no more is kept
            self._take(self._call)

    def _complete(self) -> None:
        if (call := self._call) is not None:
            self._take(call)
            self._last = call, call.body

    def _take(self, call: Call) -> None:
        call.body, self._body = bytes(self._body), b""
        self._call = None
        self._accept(call)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _begin(self, request: Any) -> None:
        if isinstance(request, Call):
            self._current = request
            self.answer(request)
        else:
            super()._begin(request)

    def answer(self, call: Call) -> None:
        """Has the fast path answer the call, now or later, unless its client has gone."""
        if self._current is not call or self.transport.is_closing():
            return
        if (leave := self.server.fast.answer(call, self._respond)) is not None:  # it is answered later
            self._leave = leave
        if call.proven and not self._proven:
            self.prove()

    def _respond(self, answer: Answer) -> None:
        """Writes the answer of the call that is being answered."""
        self._leave = None
        call = self._current
        if call is None or self.transport.is_closing():  # the client has gone
            return
        self.server.fast.answers[call.route.path, answer.status] += 1
        self._write(answer, self.server.parting or call.last, call.is_head)

    def _ask_for_body(self) -> None:
        if self.expects and self._call is not None and self._current is None:
            self.expects = False
            self.transport.write(CONTINUE)
