"""Bodies that are read before they go to the model server, where clients cannot say how much work they are."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import Message
from typing import Final

import msgspec
from aiohttp import web

from posthouse.agent.settings import AgentSettings
from posthouse.agent.worker import Outcome
from posthouse.agent.workload import needs_body, workload_rule
from posthouse.relay import Failure, Stalled, in_time

_CHUNK_BYTES: Final = 2**16
_END_BYTES: Final = 4096  # of an answer; what says what was used is shorter, and comes last
_USED: Final = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*([0-9]{1,9})\b')
_MAX_HELD: Final = 256 * 2**20  # bytes of all of them; beyond it, what their clients announced counts


class Tokens:
    """Counts the tokens of an answer of OpenAI's or Anthropic's API, in one piece or as events, while it passes."""

    def __init__(self, counts: bool) -> None:
        self._counts = counts
        self._end = b""
        self._events = 0

    def feed(self, piece: bytes) -> None:
        if self._counts:
            self._end = (self._end + piece)[-_END_BYTES:]
            self._events += piece.count(b"data:")

    def counted(self, outcome: Outcome) -> float | None:
        """What was generated, as it says, or as many as its events where its client left. None where nobody knows."""
        if not self._counts or outcome not in {"Success", "Cancelled"}:
            return None
        if used := _USED.search(self._end.rpartition(b'"usage"')[2]):  # in a text its quotes would be escaped
            return float(used[1])
        return float(self._events) if outcome == "Cancelled" else None


class Work:
    """Counts the work of requests by the rule of the settings. `refuse`: the error for a body that cannot be read."""

    def __init__(self, settings: AgentSettings, refuse: Callable[[Failure], Exception]) -> None:
        self._refuse = refuse
        self._rule = workload_rule(settings.workload)
        self._counts_tokens = settings.workload == "tokens"
        self._needs_body = needs_body(settings.workload)
        self._max_body_bytes = settings.max_body_bytes
        self._stall_s = settings.stall_s
        self._held = 0

    def tokens(self) -> Tokens:
        """Counts an answer, if the work of requests is tokens."""
        return Tokens(self._counts_tokens)

    @asynccontextmanager
    async def body(self, client: web.Request) -> AsyncIterator[bytes | None]:
        """The body of a client that has shown its proof elsewhere, if the rule needs it; else it is left unread.

        Raises: the error that `refuse` makes.
        """
        size = client.content_length or 0
        plain = client.headers.get("Content-Encoding", "identity").lower() == "identity"
        if not (self._needs_body and plain and size > 0 and self._held + size <= _MAX_HELD):
            yield None
            return
        if size > self._max_body_bytes:
            raise self._refuse("too large")
        self._held += size
        try:
            body = bytearray()
            try:
                while chunk := await in_time(client.content.read(_CHUNK_BYTES), self._stall_s):
                    body += chunk
            except Stalled:
                raise self._refuse("too slow") from None
            yield bytes(body)
        finally:
            self._held -= size

    async def of(self, body: bytes | None, content_type: str, cost: float) -> float:
        """The work of a request with this body, None if it was not read, whose client announced `cost`."""
        if body is None:
            return self._rule(None, cost)
        if content_type.lower().startswith("multipart/"):
            file = first_file(body, content_type)
            return await asyncio.to_thread(self._rule, file, cost)  # decoders take their time
        try:
            return self._rule(msgspec.json.decode(body), cost)
        except (msgspec.MsgspecError, RecursionError):  # wrong or too deep: the model may judge that
            return self._rule(None, cost)


def first_file(body: bytes, content_type: str) -> bytes | None:
    """The content of the first file in a body of multipart/form-data; None where there is none. Source: RFC 7578."""
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_param("boundary")
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary.isascii():
        return None
    mark = b"--" + boundary.encode()
    at = body.find(mark)
    while at >= 0:
        begin = body.find(b"\r\n\r\n", at)
        if begin < 0:
            return None
        end = body.find(b"\r\n" + mark, begin + 2)
        if b"filename" in body[at:begin].lower():
            return body[begin + 4 : end if end >= 0 else None]
        at = end + 2 if end >= 0 else -1
    return None
