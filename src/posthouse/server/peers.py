"""Where several servers share an installation: calls for what another one has are passed on to it, by one hop."""

import asyncio
import base64
import hmac
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from posthouse.domain.endpoint import AccountId, EndpointId
from posthouse.engine.changes import Changes
from posthouse.engine.hub import Hub
from posthouse.engine.owners import Owners
from posthouse.errors import Elsewhere, NotFound, Unauthorized, Unavailable
from posthouse.http1.messages import Answer, Headers, end_to_end, head, value_of
from posthouse.http1.reply import Lost, Reply
from posthouse.http1.upstream import Upstreams, place_of
from posthouse.server.auth import Principal, Scope
from posthouse.server.calls import Call, Leave, Respond, begun
from posthouse.server.fastpath import KEY, PLACED, WORKER, FastPath

TOKEN: Final = b"x-posthouse-server"
"""The header in which a server shows that it is one of the installation's."""
CALLER: Final = b"x-posthouse-for"
"""The header that says where a call came from that is passed on."""
WHO: Final = b"x-posthouse-principal"
"""The header that says whose session of the console it is, which the server has looked at that passes the call on."""
OWN: Final = frozenset({TOKEN, CALLER, WHO, b"host", b"content-length", b"expect"})
WAIT_S: Final = 1.5
"""How much longer than a call may be held open it is waited for."""
SLOW_S: Final = 150.0
"""Longest silence of the management API: longer than any call of a provider."""
MAX_HOPS: Final = 2000
"""Most calls that are passed on at a time; the others must come again."""
MAX_ANSWER_BYTES: Final = 1_048_576
MAX_LIST_BYTES: Final = 67_108_864
OTHERS_S: Final = 5.0
"""How long another is waited for, where each has a part of the answer."""
MAX_HOMES: Final = 100_000
"""Most workers whose endpoint is remembered; beyond it all are looked up again. They never move."""
DOUBT: Final = b'{"endpoint":"","status":"this server is finding out what it has"}'
LATER: Final = b'{"error":"this server is finding out what it has: ask again"}'


class Who(msgspec.Struct, array_like=True, frozen=True):
    """Who is signed in, as servers tell each other."""

    scope: str
    key_id: str
    account_id: int
    name: str

    def principal(self) -> Principal:
        scope, account_id = Scope.named(self.scope), AccountId(self.account_id)
        return Principal(scope, None, self.key_id, account_id, session="at another server", name=self.name)


class Peers:
    """The other servers, as this one calls them and is called by them."""

    def __init__(
        self, hub: Hub, owners: Owners, changes: Changes, token: str, context: ssl.SSLContext, hold_s: float
    ) -> None:
        """`token`: what servers show each other. `hold_s`: how long a call may be held open."""
        self.hub, self.owners, self.changes = hub, owners, changes
        self.on_unknown: Callable[[int], None] = lambda worker_id: None
        """Called for each message of a worker that no server owns."""
        self._token = token.encode()
        self._wait_s = hold_s + WAIT_S
        self._quick, self._slow = Upstreams(context, self._wait_s), Upstreams(context, SLOW_S)
        self._hops: set[asyncio.Task[None]] = set()
        self._homes: dict[int, EndpointId] = {}
        owners.on_peer_lost.append(self._forget)

    def passed(self, headers: Headers) -> str | None:
        """Where a call comes from that another server has passed on; None for every other."""
        for name, value in headers:
            if name == TOKEN:
                return value_of(headers, CALLER) if hmac.compare_digest(value, self._token) else None
        return None

    def pass_on(self, call: Call, error: Elsewhere, respond: Respond, lost: Callable[[Exception], Answer]) -> Leave:
        """Has the server answer that has what the call is about; else answers what is `lost`."""

        async def hop() -> None:
            try:
                async with asyncio.timeout(self._wait_s):
                    url = await self._place(error, call)
                    if self.passed(call.headers) is not None:  # by one hop
                        raise error
                    answer = await self._answer(call, url)
            except Exception as failure:  # noqa: BLE001 - the seam of a request; of the other server nothing is known
                answer = lost(failure if isinstance(failure, Unauthorized) else error)
            respond(answer)

        return begun(hop(), self._hops)

    def is_busy(self) -> bool:
        """Whether no more calls are passed on now."""
        return len(self._hops) >= MAX_HOPS

    async def relay(self, scope: AsgiScope, error: Elsewhere, send: Send) -> None:
        """Has the server answer a call of the management API that has what this is about. Raises: `error`."""
        raw: bytes = scope["state"]["raw_body"]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        try:
            url = await self._place(error)
            reply = await self._ask(self._slow, url, scope["method"], target, self._headers(scope), raw)
        except Lost:
            raise error from None
        try:
            first = await self._begun(reply, error)
            kept = end_to_end(reply.headers, frozenset({b"x-request-id"}))
            await send({"type": "http.response.start", "status": reply.status, "headers": kept})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in reply.pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reply.close()

    async def others(self, request: Request, **query: int) -> list[Any]:
        """What each of the other servers answers to the same GET, but for `query`; who does not answer is left out."""
        scope = request.scope
        if scope["state"].get("passed"):
            return []
        params = bytes(str(request.url.include_query_params(**query).query), "latin-1")
        target = scope["raw_path"] + (b"?" + params if params else b"")
        headers = self._headers(scope)

        async def ask(url: str) -> Any:
            async with asyncio.timeout(OTHERS_S):
                reply = await self._ask(self._slow, url, "GET", target, headers, b"")
                try:
                    body = await reply.read(MAX_LIST_BYTES, await reply.begin())
                    return msgspec.json.decode(body) if reply.status == 200 else None
                finally:
                    reply.close()

        found = await asyncio.gather(*map(ask, filter(None, self.owners.peers.values())), return_exceptions=True)
        return [answer for answer in found if not (answer is None or isinstance(answer, BaseException))]

    def every_second(self) -> None:
        """Ends connections that have been idle or silent for too long."""
        self._quick.every_second()
        self._slow.every_second()

    def close(self) -> None:
        """Ends every connection."""
        self._quick.close()
        self._slow.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _answer(self, call: Call, url: str) -> Answer:
        """What the server at `url` says. Raises: Lost."""
        path = (f"/w/{call.token}" if call.token else "") + call.route.path + "/"
        target = path.encode("latin-1") + (b"?" + call.query if call.query else b"")
        headers = self._signed(call.address)
        if call.authorization:
            headers.append((b"authorization", call.authorization.encode("latin-1")))
        for again in (True, False):
            try:
                reply = await self._ask(self._quick, url, call.route.method, target, headers, call.body)
                try:
                    body = await reply.read(MAX_ANSWER_BYTES, await reply.begin())
                finally:
                    reply.close()
                break
            except Lost as lost:
                if not (lost.stale and again):
                    raise
        kept = tuple(header for header in reply.headers if header[0] == b"retry-after")
        kind = value_of(reply.headers, b"content-type").encode("latin-1")
        return Answer(reply.status, body, kind, kept)

    def _headers(self, scope: AsgiScope) -> Headers:
        """The headers with which a call of the management API is passed on to another server."""
        principal: Principal | None = scope["state"].get("principal")
        headers = end_to_end(scope["headers"], OWN) + self._signed(scope["client"][0] if scope.get("client") else "")
        if principal is not None and principal.session:
            who = Who(principal.scope.name, principal.key_id, principal.account_id, principal.name)
            headers.append((WHO, base64.b64encode(msgspec.json.encode(who))))
        return headers

    async def _begun(self, reply: Reply, error: Elsewhere) -> bytes:
        try:
            return await reply.begin()
        except Lost:
            raise error from None

    async def _ask(
        self, upstreams: Upstreams, url: str, method: str, target: bytes, headers: Headers, body: bytes
    ) -> Reply:
        origin, host, prefix = place_of(url)
        first = b"%s %s%s HTTP/1.1\r\n" % (method.encode("latin-1"), prefix, target)
        own: Iterable[tuple[bytes, bytes]] = [(b"host", host), (b"content-length", b"%d" % len(body))]
        return await upstreams.ask(origin, head(first, [*own, *headers]) + b"\r\n", body, is_head=method == "HEAD")

    def _signed(self, caller: str) -> Headers:
        return [(TOKEN, self._token), (CALLER, caller.encode("latin-1"))]

    async def _place(self, error: Elsewhere, call: Call | None = None) -> str:
        """The URL of the server that owns what is asked for. `call`: of the fast path. Raises: Lost if none is known,
        Unauthorized or NotFound for a worker that no server owns, Unavailable."""
        url = ""
        if error.endpoint_id:
            url = self.owners.owner_url(EndpointId(error.endpoint_id))
        elif (home := await self._home(error.worker_id)) is not None:
            url = self.owners.owner_url(home)
        elif call is None:
            raise NotFound(f"worker {error.worker_id} does not exist")
        elif not (url := self.owners.leader_url()):  # the leader ends orphans, so it must know which ones live
            if call.proven:
                self.on_unknown(error.worker_id)
            raise Unauthorized("mtoken: not the token of this worker")
        if not url:
            raise Lost("no server is known to own it now", begun=False)
        return url

    async def _home(self, worker_id: int) -> EndpointId | None:
        """The endpoint of a worker; None if it has none. Raises: Unavailable."""
        if (home := self._homes.get(worker_id)) is None:
            label = f"{self.hub.label_prefix}{worker_id}"
            home = (await self.hub.store.workers_labelled([label])).get(label)
            if home is not None:
                if len(self._homes) >= MAX_HOMES:
                    self._homes.clear()
                self._homes[worker_id] = home
        return home

    def _forget(self, url: str) -> None:
        """Gives up what a server was asked that is dead."""
        origin = place_of(url)[0]
        for upstreams in (self._quick, self._slow):
            for link in [link for link in upstreams.links if link.origin == origin]:
                link.transport.abort()


class SharedFastPath(FastPath):
    """The fast path of one of several servers."""

    peers: Peers

    def answer(self, call: Call, respond: Respond) -> Leave | None:
        if (address := self.peers.passed(call.headers)) is not None:
            call.address = address
        if self.peers.owners.lease.may_be_lost() and call.route.access in (KEY, WORKER):
            respond(Answer(200, DOUBT) if call.route.access is KEY else Answer(503, LATER))
            return None
        return super().answer(call, respond)

    def _not_done(self, call: Call, message: Any, error: Exception, respond: Respond) -> Leave | None:
        if not isinstance(error, Elsewhere) or self.peers.is_busy():
            return super()._not_done(call, message, error, respond)
        call.proven = call.route.access is not PLACED or bool(call.token)  # what was shown has been checked
        return self.peers.pass_on(call, error, respond, lambda failure: self._failed(call, message, failure))


class FromPeers:
    """In front of the management API: knows what another server has passed on."""

    def __init__(self, app: ASGIApp, peers: Peers) -> None:
        self.app = app
        self.peers = peers

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (caller := self.peers.passed(scope["headers"])) is not None:
            scope["client"] = (caller, 0)
            who = value_of(scope["headers"], WHO)
            signed_in = msgspec.json.decode(base64.b64decode(who), type=Who).principal() if who else None
            scope["state"] = {"passed": True, "signed_in": signed_in}
        await self.app(scope, receive, send)


class FreshMiddleware:
    """Has this server know what others have changed, before it answers: who made an endpoint at one may use it at any
    other with the next call."""

    def __init__(self, app: ASGIApp, peers: Peers) -> None:
        self.app = app
        self.peers = peers

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        with suppress(Unavailable):
            await self.peers.changes.look()
        await self.app(scope, receive, send)


class ElsewhereMiddleware:
    """Passes on what another server has. Raises: Elsewhere where that cannot be reached, or has passed the call on."""

    def __init__(self, app: ASGIApp, peers: Peers) -> None:
        self.app = app
        self.peers = peers

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Elsewhere as error:  # nothing has been done
            if scope["state"].get("passed"):
                raise
            await self.peers.relay(scope, error, send)
