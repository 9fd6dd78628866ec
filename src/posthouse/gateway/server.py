"""Calls of the server, over the same connections for every caller's key."""

import os
from functools import lru_cache
from typing import Any, Final, Self

import msgspec

from posthouse.client.answers import Routed, Waiting
from posthouse.client.errors import Unreachable
from posthouse.client.http import CALL_TIMEOUT_S, MAX_ANSWER_BYTES, URL, Http
from posthouse.client.requests import Requests
from posthouse.http1.reply import Lost, Reply
from posthouse.http1.upstream import Origin, Upstreams, place_of

SOON_S: Final = 6.0
"""How long one of several servers may be silent before another is asked: they hold `/route/` open for less than 4 s."""


class Server(Http):
    """The server, asked with a caller's key; or one of several that share an installation, and another where that gives
    no answer."""

    def __init__(self, url: str | None, ca: str | os.PathLike[str] | None, silence_s: float) -> None:
        """`url`: one, or several with commas between. `silence_s`: longest time without a byte of a worker.

        Raises: BadRequest.
        """
        first, *others = (url or os.environ.get("POSTHOUSE_URL") or URL).split(",")
        super().__init__(first.strip(), None, ca)
        self.urls = [self.url, *(Http(other.strip(), None, ca).url for other in others)]
        """Of the servers; the first is the one that answered last."""
        self.workers = Upstreams(self.context, silence_s)
        """Connections to workers."""
        self._upstreams = Upstreams(self.context, CALL_TIMEOUT_S if not others else SOON_S)
        self._traced = b""

    def with_key(self, api_key: str, traceparent: str = "") -> Self:
        """The same connections, with a key, which is one word. `traceparent`: of what the calls are part of."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other._api_key = api_key
        other._traced = b"traceparent: %s\r\n" % traceparent.encode() if traceparent else b""
        return other

    async def close(self) -> None:
        self._upstreams.close()
        self.workers.close()

    def every_second(self) -> None:
        """Ends what is silent. To be called so often."""
        self._upstreams.every_second()
        self.workers.every_second()

    async def _send(
        self, method: str, path: str, body: bytes | None, timeout_s: float = CALL_TIMEOUT_S
    ) -> tuple[int, bytes]:
        why = ""
        for url in tuple(self.urls):  # whatever a gateway asks a server may be asked twice
            try:
                try:
                    answer = await self._ask(url, method, path, body or b"")
                except Lost as lost:
                    if not lost.stale:
                        raise
                    answer = await self._ask(url, method, path, body or b"")  # it has started again meanwhile
            except Lost as lost:
                why += f"{'; ' if why else ''}{url} did not answer: {lost}"
                continue
            if url != self.urls[0]:
                self.urls.sort(key=url.__ne__)
            return answer
        raise Unreachable(why)

    async def _ask(self, url: str, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        origin, first = _begun(url, method, path, self._api_key)
        head = b"%s%sContent-Length: %d\r\n\r\n" % (first, self._traced, len(body))
        reply: Reply | None = None
        try:
            reply = await self._upstreams.ask(origin, head, body)
            first = await reply.begin()
            return reply.status, first if reply.whole else await reply.read(MAX_ANSWER_BYTES, first)
        finally:
            if reply is not None:
                reply.close()


class _Reply(msgspec.Struct):
    """Of `/route/`, as a server of ours answers most of all calls."""

    endpoint: str
    cost: int | float
    reqnum: int
    signature: str
    url: str
    request_idx: int
    limits: msgspec.Raw | None = None
    model: str = ""


_decode = msgspec.json.Decoder(_Reply).decode


class Routes(Requests):
    """Requests whose proof for the worker is what the server said, byte for byte, where that is all it said."""

    def read(self, raw: bytes) -> Routed | Waiting:
        """What `/route/` has answered. Raises: ClientError."""
        try:
            reply = _decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # that it waits, or something is wrong with it
            return super().read(raw)
        if reply.limits is not None or reply.model:  # which are not for the worker
            return super().read(raw)
        proof: Any = msgspec.Raw(raw)
        return Routed(reply.endpoint, reply.cost, reply.reqnum, reply.signature, reply.url, proof, reply.request_idx)


@lru_cache(maxsize=4096)
def _begun(url: str, method: str, path: str, key: str) -> tuple[Origin, bytes]:
    """Where a call goes, and what its head begins with. Raises: Lost."""
    origin, host, prefix = place_of(url)
    shown = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"{method} {prefix.decode()}{path} HTTP/1.1\r\nHost: {host.decode()}\r\n{shown}"
    return origin, f"{head}Content-Type: application/json\r\n".encode()
