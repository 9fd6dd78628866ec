"""One HTTP request on its way from a client to another server, and the answer on its way back, piece by piece.

The agent relays to its model server. It decides what is relayed, where to, and how a failure is reported to the client.
"""

import asyncio
import io
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeVar

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from posthouse.http1.messages import HOP_BY_HOP

T = TypeVar("T")

log = logging.getLogger(__name__)

Failure = Literal["too large", "too slow", "unreachable", "broke off", "silent"]
"""Why there is no answer: the client's body is too large or stays out; the server cannot be reached, and so has begun
nothing, or broke off, or stays silent."""
Ending = Literal["complete", "client left", "broken"]
"""How the answer ended; `broken`: the other server broke off."""

_CHUNK_BYTES: Final = 2**16  # of a request body passed on at once
_CONNECT_S: Final = 10.0
_MAX_HEAD_BYTES: Final = 65_536  # of a line in the head of an answer
_USUAL_LINE_BYTES: Final = 8000  # many servers take no longer line in a head, and answer a bare 400
_CLIENT_LEFT: Final = 499  # a status that nobody reads; nginx's

_RESTATED: Final = frozenset({"content-length", "expect", "host"})
_OF_THE_BODY: Final = frozenset({"content-encoding"})  # of what the client sent
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def relay_session(silence_s: float, context: ssl.SSLContext | None = None) -> ClientSession:
    """Return a session with other servers that adds nothing to what passes through it.

    No connection is used twice, because a server may close an idle one just as a request is sent. No cookie is
    kept, because the next request is another client's. `silence_s`: longest time without a byte; 0 is no limit.
    `context`: what certificates are checked with.
    """
    return ClientSession(
        connector=TCPConnector(limit=0, force_close=True, ssl=context or True),
        timeout=ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s or None),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        max_line_size=_MAX_HEAD_BYTES,
        max_field_size=_MAX_HEAD_BYTES,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


def forwarded(client: web.Request) -> dict[str, str]:
    """Return the X-Forwarded headers that name the client to the other server."""
    before = client.headers.get("X-Forwarded-For")
    remote = client.remote or "unknown"
    return {
        "X-Forwarded-For": f"{before}, {remote}" if before else remote,
        "X-Forwarded-Host": client.host,
        "X-Forwarded-Proto": client.scheme,
    }


class _TooLarge(Exception):
    pass


class Stalled(Exception):
    """The client takes or gives nothing."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The rules for all requests that are relayed.

    Run the application with `handler_cancellation`, so that a client that leaves ends its request at the other server,
    and without `auto_decompress`, so that bodies pass as they are.
    """

    session: ClientSession
    """Made by `relay_session`."""
    max_body_bytes: int
    refuse: Callable[[Failure], Exception]
    """The error to raise where there is no answer to pass on."""
    on_answer: Callable[[], None] = lambda: None
    """Called for each piece of an answer that comes from the other server."""
    translate: Callable[[CIMultiDict[str]], None] = lambda headers: None
    """Changes the headers of an answer to what a client can use."""
    withheld: frozenset[str] = frozenset()
    """Headers of clients that are not passed on, in lower case; above all their keys."""
    stall_s: float = 60.0
    """How long a client may take nothing of its answer, or give nothing of its body: nginx's default."""

    async def forward(
        self,
        client: web.Request,
        url: URL,
        body: bytes | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        passes: Callable[[bytes], None] = lambda piece: None,
    ) -> tuple[web.StreamResponse, Ending]:
        """Return the answer once all of it has been passed on, and how it ended.

        `body` replaces the client's own, which is otherwise passed on as it comes. `headers` are added to the client's,
        and replace those of the same name. `passes`: called with each piece of the answer.

        Raises: the error that `refuse` makes.
        """
        response: web.StreamResponse | None = None
        sent = self.headers(client, own_body=body is None, more=headers)
        data = io.BytesIO(body) if body is not None else self._upload(client) if client.body_exists else None
        try:
            async with self.session.request(
                client.method,
                url,
                data=data,
                headers=sent,
                allow_redirects=False,  # the other server must not be a way to more of them
            ) as answer:
                self.on_answer()
                own = end_to_end(answer.headers)
                self.translate(own)
                status, reason = answer.status, answer.reason
                if status == 400 and max(map(len, sent.values()), default=0) > _USUAL_LINE_BYTES:
                    status, reason = 431, "Request Header Fields Too Large"
                response = web.StreamResponse(status=status, reason=reason, headers=own)
                await response.prepare(client)
                while chunk := await answer.content.readany():
                    self.on_answer()
                    passes(chunk)
                    await in_time(response.write(chunk), self.stall_s)
                await in_time(response.write_eof(), self.stall_s)
        except Stalled:
            log.warning("relay: the client has taken nothing for %g s", self.stall_s)
            if client.transport is not None:
                client.transport.abort()
            return response or web.Response(status=_CLIENT_LEFT), "client left"
        except (ClientError, OSError, TimeoutError) as error:
            if client.transport is None or client.transport.is_closing():
                return response or web.Response(status=_CLIENT_LEFT), "client left"
            failure = _failure(error)
            if failure not in {"too large", "too slow"}:
                log.warning("relay: %s", type(error).__name__)
            if response is None:
                raise self.refuse(failure) from None
            client.transport.abort()  # so that the client sees that the answer is not complete
            return response, "broken"
        return response, "complete"

    async def _upload(self, client: web.Request) -> AsyncIterator[bytes]:
        """Yield the body of `client` as it comes. Raises: _TooLarge; before the first piece if the head says so."""
        size = client.content_length or 0
        if size <= self.max_body_bytes:
            size = 0
            while chunk := await in_time(client.content.read(_CHUNK_BYTES), self.stall_s):
                size += len(chunk)
                if size > self.max_body_bytes:
                    break
                yield chunk
        if size > self.max_body_bytes:
            raise _TooLarge

    def headers(self, client: web.Request, own_body: bool, more: Mapping[str, str]) -> CIMultiDict[str]:
        """Return the client's headers as they are passed on. `own_body`: with the body that it sent."""
        withheld = self.withheld if own_body else self.withheld | _OF_THE_BODY
        headers = end_to_end(client.headers, _RESTATED | withheld)
        if own_body and client.content_length is not None:
            headers["Content-Length"] = str(client.content_length)  # not every server takes chunks
        for name, value in more.items():
            headers[name] = value
        return headers


def _failure(error: Exception) -> Failure:
    if isinstance(error.__cause__, _TooLarge | Stalled):  # raised by our own upload
        return "too large" if isinstance(error.__cause__, _TooLarge) else "too slow"
    if isinstance(error, ClientConnectorError):
        return "unreachable"
    return "silent" if isinstance(error, TimeoutError) else "broke off"


async def in_time(step: Awaitable[T], stall_s: float) -> T:
    """Wait for a client. Raises: Stalled."""
    try:
        async with asyncio.timeout(stall_s):
            return await step
    except TimeoutError:
        raise Stalled from None


def end_to_end(headers: CIMultiDictProxy[str], dropped: frozenset[str] = frozenset()) -> CIMultiDict[str]:
    """Return the headers, without those in `dropped` and those that only concern one connection."""
    named = {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
    named |= HOP_BY_HOP | dropped
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in named)
