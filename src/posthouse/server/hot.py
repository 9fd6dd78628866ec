"""The calls that clients and workers make all the time, answered without a framework."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import structlog

from posthouse.config import Rates
from posthouse.domain.errors import BadRequest, Busy, NotFound, Unauthorized
from posthouse.engine.certificates import Certificates
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.router import Router
from posthouse.server.auth import Keyring, Principal, Scope, key_in_header
from posthouse.server.throttle import Throttle, TooMany
from posthouse.wire import deletes, route, status
from posthouse.wire.body import sender
from posthouse.wire.grant import TIME_HEADER

log = structlog.get_logger()

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
"""With names in lower case."""

JSON = b"application/json"
"""Without a charset: a command line of this protocol refuses to read any other spelling."""

LONG_BYTES = 16_384
"""Longest message of a worker that is read before anybody asks who sent it; usual ones have less than 1,000 bytes."""

METRICS = b"text/plain; version=0.0.4; charset=utf-8"

HOT_ROUTES = {
    # Who may call. "key": whoever has an account key, or that endpoint's; "read": an account key with that scope;
    # "worker": a worker with its own token. "placed": the same, or who calls from where that worker's instance is.
    ("POST", "/route"): "key",
    ("POST", "/worker_status"): "worker",
    ("POST", "/delete_requests"): "worker",
    ("POST", "/sign_cert"): "placed",
    ("GET", "/pubkey"): "public",
    ("GET", "/static/jvastai_root.cer"): "public",
    ("GET", "/healthz"): "public",
    ("GET", "/readyz"): "public",
    ("GET", "/metrics"): "read",
}
"""Every route of this module, with its policy. Each also answers under /api/v0 and with a trailing slash."""

SPELLINGS = {
    f"{prefix}{path}{slash}": (path, "") for _, path in HOT_ROUTES for prefix in ("", "/api/v0") for slash in ("", "/")
}
"""The usual spellings of their paths, each with what `_normal` makes of it."""


@dataclass(slots=True)
class Hot:
    """An ASGI application in front of another: it answers `HOT_ROUTES` and passes everything else on."""

    hub: Hub
    router: Router
    ingest: Ingest
    certificates: Certificates
    keyring: Keyring
    rest: App
    max_body_bytes: int
    ready: Callable[[], str]
    """Why the server is not ready; empty if it is."""
    metrics: Callable[[], bytes]
    root_certificate: bytes
    """Of the authority that signs workers' certificates, PEM."""
    throttle: Throttle = field(default_factory=lambda: Throttle(Rates()))
    troubles: Callable[[], list[str]] = list
    """What fails, for everybody to read. A server in trouble is ready: it routes."""
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.rest(scope, receive, send)
            return
        path, token = SPELLINGS.get(scope["path"]) or _normal(scope["path"])
        policy = HOT_ROUTES.get((scope["method"], path))
        if policy is None:
            await self.rest(scope, receive, send)
            return
        more: Headers = []
        try:
            if path == "/route":
                code, body = await self._route(scope, receive)
                content_type = JSON
            else:
                code, content_type, body = await self._answer(path, token, scope, receive)
                if path == "/pubkey":
                    more = [(TIME_HEADER.encode(), b"%.3f" % self.hub.clock.now())]
        except BadRequest as error:
            code, content_type, body = 400, JSON, _error(error)
        except Unauthorized as error:
            code, content_type, body = 401, JSON, _error(error)
        except Busy as error:
            code, content_type, body = 429, JSON, _error(error)
            more = [(b"retry-after", b"%d" % error.retry_after_whole_s)]
        except _Gone:
            return
        except Exception as error:  # noqa: BLE001 - the seam of a request: no traceback and no 5xx may reach a peer
            code, content_type, body = 400, JSON, self._failed(path, error)
        self.answers[path, code] += 1
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *more]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, path: str, token: str, scope: Message, receive: Receive) -> tuple[int, bytes, bytes]:
        if path == "/worker_status":
            worker_id, own_token, report = status.decode(await self._message(receive, token))
            self.ingest.report(worker_id, _one_token(own_token, token), report)
            return 200, JSON, b'{"success":true}'
        if path == "/delete_requests":
            worker_id, own_token, ended = deletes.decode(await self._message(receive, token))
            self.ingest.ended(worker_id, _one_token(own_token, token), ended)
            return 200, JSON, b'{"success":true}'
        if path == "/sign_cert":
            return await self._sign_cert(token, scope, receive)
        if path == "/metrics":
            now = self.hub.clock.now()
            if self._principal(scope["headers"], scope["query_string"], _address(scope), now).scope < Scope.READ:
                raise Unauthorized("api_key: this key may not read")
            return 200, METRICS, self.metrics()
        if path == "/pubkey":
            return 200, b"application/x-pem-file", self.router.signer.public_pem.encode()
        if path == "/static/jvastai_root.cer":
            return 200, b"application/x-x509-ca-cert", self.root_certificate
        if path == "/readyz":
            if why := self.ready():
                return 503, JSON, route.encode({"ready": False, "why": why})
            return 200, JSON, route.encode({"ready": True, "troubles": self.troubles()})
        return 200, JSON, b'{"alive":true}'

    async def _sign_cert(self, token: str, scope: Message, receive: Receive) -> tuple[int, bytes, bytes]:
        """The protocol has this call beside the management API, so its errors have that shape."""
        try:
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("instance_id", [""])[0]
            if not re.fullmatch(r"[0-9]{1,16}", asked):
                raise BadRequest(f"instance_id: must be the number in CONTAINER_ID, not {asked[:40]!r}")
            request = await self._body(receive)
            pem = await self.certificates.sign(int(asked), token, _address(scope), request)
            return 200, b"application/x-pem-file", pem
        except BadRequest as error:
            return 400, JSON, _web_error("invalid_args", error)
        except Unauthorized as error:
            return 401, JSON, _web_error("unauthorized", error)
        except Busy as error:
            return 429, JSON, _web_error("rate_limit_exceeded", error)

    def route(
        self, headers: Headers, query: bytes, raw: bytes, address: str, deliver: Callable[[int, bytes], None]
    ) -> Callable[[], None] | None:
        """Has `deliver` called once with status and body of the answer to a `/route/` call, now or later.

        Returns what is to be called if the client goes away before; None where `deliver` has been called. Calls beyond
        the rates are answered that they wait, and nothing is remembered of them: the protocol's client gives a request
        up for any other answer.
        """

        def replied(reply: route.RouteReply | route.WaitReply | Exception) -> None:
            if isinstance(reply, Exception):
                deliver(400, self._failed("/route", reply))
            else:
                deliver(200, route.encode(reply))

        try:
            ask, now = route.decode(raw), self.hub.clock.now()
            try:
                principal = self._principal(headers, query, address, now, route.key_in(ask))
            except TooMany:
                deliver(200, _put_off(route.checked(ask), "too many wrong keys"))
                return None
            ask = route.checked(ask)
            managed = self.hub.named(ask.endpoint, principal.account_id)
            if managed is None:
                raise BadRequest(f"endpoint: there is no endpoint named {ask.endpoint!r}")
            if principal.endpoint_id is not None and principal.endpoint_id != managed.fleet.endpoint.id:
                raise Unauthorized("api_key: this key is for another endpoint")
            if not self.throttle.allows_route(principal.key_id, address, now):
                deliver(200, _put_off(ask, "too many calls"))
                return None
        except (BadRequest, Unauthorized) as error:
            deliver(400 if isinstance(error, BadRequest) else 401, _error(error))
            return None
        except Exception as error:  # noqa: BLE001 - as in __call__
            replied(error)
            return None
        return self.router.route(managed, ask, replied)

    async def _route(self, scope: Message, receive: Receive) -> tuple[int, bytes]:
        raw = await self._body(receive)
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def deliver(code: int, body: bytes) -> None:
            if not answer.done():
                answer.set_result((code, body))

        leave = self.route(scope["headers"], scope["query_string"], raw, _address(scope), deliver)
        if leave is None:
            return answer.result()
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            both: set[asyncio.Future[Any]] = {answer, leaving}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            leave()
            raise
        finally:
            leaving.cancel()
        if leaving.done():  # even with a worker found: nobody is there to go to it
            leave()
            raise _Gone
        return answer.result()

    def _failed(self, path: str, error: Exception) -> bytes:
        log.error("a call failed", path=path, error=repr(error)[:500])
        self.answers[path, 500] += 1
        return b'{"error":"the server could not answer this call"}'

    def _principal(self, headers: Headers, query: bytes, address: str, now: float, key_in_body: str = "") -> Principal:
        key = ""
        for name, value in headers:
            if name == b"authorization":
                key = key_in_header(value.decode("latin-1"))
                break
        key = key or key_in_body or (parse_qs(query.decode("latin-1")).get("api_key", [""])[0] if query else "")
        principal = self.throttle.principal(self.keyring, key, address, now)
        if principal is None:
            raise Unauthorized("api_key: missing, wrong or revoked")
        return principal

    async def _message(self, receive: Receive, token: str) -> bytes:
        """A message of a worker. A long one is costly to read, so its sender is looked at before the rest."""
        raw = await self._body(receive)
        if len(raw) > LONG_BYTES:
            worker_id, own_token = sender(raw)
            self.ingest.home(worker_id, _one_token(own_token, token))
        return raw

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body: bytes = message["body"]
        if len(body) <= self.max_body_bytes and not message["more_body"]:
            return body
        chunks, size = [body], len(body)
        while message["more_body"] and size <= self.max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunks.append(message["body"])
            size += len(message["body"])
        if size > self.max_body_bytes:
            raise BadRequest(f"body: must be at most {self.max_body_bytes} bytes")
        return b"".join(chunks)


class _Gone(Exception):
    """The client left: nobody is there to be answered."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _normal(path: str) -> tuple[str, str]:
    """The path without its trailing slash, without /api/v0 and without /w/TOKEN; and that token.

    Workers that carry no token in their reports are given an address with one: everything they call begins with it.
    """
    token = ""
    if path.startswith("/w/"):
        _, _, token, rest = path.split("/", 3) if path.count("/") >= 3 else ("", "", "", "")
        path = f"/{rest}"
    path = path.removeprefix("/api/v0")
    return path.rstrip("/") or "/", token


def _one_token(in_body: str, in_path: str) -> str:
    """The worker's token, wherever it is; two that differ are none."""
    if in_body and in_path and in_body != in_path:
        return ""
    return in_body or in_path


def _address(scope: Message) -> str:
    """Where a call comes from; empty where that is no address."""
    return scope["client"][0] if scope.get("client") else ""


def _put_off(ask: route.RouteAsk, why: str) -> bytes:
    return route.encode(route.WaitReply(ask.endpoint, why, ask.request_idx or 0))


def _error(error: BadRequest | Busy | NotFound | Unauthorized) -> bytes:
    return route.encode({"error": str(error)})


def _web_error(code: str, error: Exception) -> bytes:
    return route.encode({"success": False, "error": code, "msg": str(error)})
