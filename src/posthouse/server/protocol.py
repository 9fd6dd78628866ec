"""uvicorn's HTTP protocol with limits of our own, and with `/route/` answered as soon as it has been read.

A request for a worker is answered from memory; the task, the two messages and the checks by which an ASGI application
answers cost as much again. So a call that takes no waiting is answered right where its last byte is parsed. Whatever is
unusual about it takes uvicorn's own way: another call, an error, a worker or a signature to wait for, a body in many
pieces, an answer before it on the same connection that is not out yet.
"""

from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from posthouse.server.hot import BEGUN, JSON, SPELLINGS, Begun, Hot, Message

HEAD_BYTES = 65_536
"""Most that is read of a request's address and headers beyond the first read; clients of the protocol send 2,000."""
EARLY_BYTES = 65_536
"""Longest body of a call that is answered early; usual ones have less than 1,000 bytes."""

_PATHS = frozenset(path.encode() for path, (normal, _) in SPELLINGS.items() if normal == "/route")
_NO_HEAD: tuple[object, bytes] = (None, b"")


class Protocol(HttpToolsProtocol):
    """One connection. Serve with a class that `protocol_for` returns."""

    hot: Hot
    early: bool
    _in_head = False
    _head_bytes = 0
    _read: bytes | None = None
    """The body so far of a call that may be answered early."""
    _answer_head = _NO_HEAD
    """The beginning of a good answer, and the default headers it was made of, of which uvicorn makes new ones."""

    def data_received(self, data: bytes) -> None:
        head = self.headers if self._in_head else None
        super().data_received(data)
        if self._in_head and self.headers is head:  # all of it belongs to one head, which has not ended yet
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_head, self._head_bytes, self._read = True, 0, None

    def on_headers_complete(self) -> None:
        self._in_head = False
        path, _, _ = self.url.partition(b"?")
        if self.early and path in _PATHS and self._is_usual():
            self._read = b""
        else:
            self._go_the_usual_way()

    def on_body(self, body: bytes) -> None:
        if self._read is None:
            super().on_body(body)
            return
        self._read += body
        if len(self._read) > EARLY_BYTES:
            self._go_the_usual_way(self._read)

    def on_message_complete(self) -> None:
        if self._read is not None:
            answer = self._begin(self._read)
            if isinstance(answer, bytes):
                self._read = None
                self._write(answer)
                return
            self._go_the_usual_way(self._read, answer)
        super().on_message_complete()

    def _is_usual(self) -> bool:
        """True for a POST that nothing on this connection stands before, whose answer can be written at once."""
        parser = self.parser
        return (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
        )

    def _begin(self, body: bytes) -> bytes | Begun | None:
        try:
            return self.hot.begin_route(self.headers, self.url.partition(b"?")[2], body)
        except Exception:  # noqa: BLE001 - the usual way meets the same error again, and answers it
            return None

    def _write(self, answer: bytes) -> None:
        self.hot.answers["/route", 200] += 1
        made_of, head = Protocol._answer_head
        defaults = self.server_state.default_headers
        if made_of is not defaults:
            lines = b"".join(b"%s: %s\r\n" % header for header in defaults)
            head = b"HTTP/1.1 200 OK\r\n%scontent-type: %s\r\ncontent-length: " % (lines, JSON)
            Protocol._answer_head = defaults, head
        self.transport.write(b"%s%d\r\n\r\n%s" % (head, len(answer), answer))
        self.on_response_complete()

    def _go_the_usual_way(self, read: bytes = b"", begun: Begun | None = None) -> None:
        """Makes of the request what uvicorn would have made of it so far."""
        self._read = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        if begun is not None:
            cast(Message, self.scope)[BEGUN] = begun
        super().on_headers_complete()
        if read:
            super().on_body(read)


def protocol_for(hot: Hot, early: bool) -> type[Protocol]:
    """The protocol class of connections to `hot`, for uvicorn. `early`: `/route/` is answered early."""
    return type("ConnectedProtocol", (Protocol,), {"hot": hot, "early": early})
