"""The calls that clients and workers make all the time, answered where they are read and without a framework.

Each has one row in `ROUTES`: who may make it, how its body is read, and what it does.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

import structlog

from posthouse import tracing
from posthouse.config import Rates
from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.engine.certificates import Certificates
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.limits import Meter, OverLimit
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.router import Deliver, Router
from posthouse.errors import BadRequest, Elsewhere, TooMany, Unauthorized
from posthouse.http1.messages import Answer, Headers
from posthouse.measures import CONTENT_TYPE, QUICK_S, Histogram
from posthouse.server.auth import Keyring, Principal, Scope, key_in_header, key_in_query, one_key, password_in_header
from posthouse.server.calls import Access, Call, Leave, Respond, Route, authorization, begun
from posthouse.server.errors import Problem, problem, web_body
from posthouse.server.throttle import Throttle
from posthouse.server.traced import traced
from posthouse.wire import deletes, route, status
from posthouse.wire.body import sender
from posthouse.wire.grant import TIME_HEADER

log = structlog.get_logger()

PEM: Final = b"application/x-pem-file"
SHORT_BYTES: Final = 4096
"""Up to this length no body is too long: the least that `server.max_body_bytes` may be."""
MAX_UNASKED_BYTES: Final = 16_384
"""Longest message of a worker that is read before anybody asks who sent it; usual ones have less than 1,000 bytes."""
MAX_ASK_BYTES: Final = 65_536
"""Longest body of `/route/`; usual ones have less than 1,000 bytes."""
PUT_OFF_S = 1.0
"""For how long an answer is put off that says too many came."""
OUTCOMES: Final = ("worker", "waits", "put off", "refused")
"""What `/route/` answers: a worker; that there is none yet; the same, unseen, to whom asks too much; an error."""
CROWDED_ROUTE: Final = b'{"endpoint":"","status":"the server has too many connections"}'
CROWDED: Final = b'{"success":false,"error":"busy","msg":"the server has too many connections: try again later"}'


SUCCESS: Final = Answer(200, b'{"success":true}')


@dataclass(slots=True)
class FastPath:
    """What answers `ROUTES`."""

    hub: Hub
    router: Router
    ingest: Ingest
    certificates: Certificates
    keyring: Keyring
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
    """Calls that were answered, by path and status. Connections count them; failures of our own count as 500, too."""
    routed: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram(QUICK_S) for name in OUTCOMES})
    """How long calls of `/route/` took to be answered, by outcome."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def most_bytes(self, route: Route) -> int:
        """The longest body that is read for a row."""
        return min(self.max_body_bytes, route.max_bytes)

    def knows(self, headers: Headers, query: bytes) -> bool:
        """Whether a request that is still to come shows a good key in its headers or its query."""
        key = one_key(key_in_header(authorization(headers)), key_in_query(query))
        return bool(key) and self.keyring.check(key, self.hub.clock.now()) is not None

    def find(self, method: str, path: str) -> tuple[Route, str] | None:
        """The row for a request, and the worker's token in its path; None where it is not of the fast path."""
        found = _USUAL.get((method, path))
        if found is not None:
            return found
        path, token = _normal(path)
        rows = _BY_PATH.get(path)
        if rows is None:
            return None
        return rows.get(method) or _other_method(path, method), token

    def answer(self, call: Call, respond: Respond) -> Leave | None:
        """Calls `respond` once, now or later. Returns what is to be called if the client leaves before that."""
        row, message, call.now = call.route, None, self.hub.clock.now()
        try:
            if len(call.body) > SHORT_BYTES:
                self._check_long(call)
            message = row.decode(call.body)
            caller = row.access.admit(self, call, message)
            return row.handle(self, call, message, caller, respond)
        except Exception as error:  # noqa: BLE001 - the seam of a request: no traceback and no 5xx may reach a peer
            return self._not_done(call, message, error, respond)

    def _not_done(self, call: Call, message: Any, error: Exception, respond: Respond) -> Leave | None:
        """Answers a call that failed."""
        answer = self._failed(call, message, error)
        if isinstance(error, TooMany):  # who asks again at once must not keep others from being answered
            asyncio.get_running_loop().call_later(PUT_OFF_S, respond, answer)
        else:
            respond(answer)
        return None

    def overload_answer(self, method: str, path: str) -> Answer:
        """The answer to a call for which there is no place. `/route/` says that it waits: the protocol's client gives a
        request up for any error."""
        found = self.find(method, path)
        if found is not None and found[0].access is KEY:
            return Answer(200, CROWDED_ROUTE)
        return Answer(503, CROWDED, headers=((b"retry-after", b"1"),))

    def _check_long(self, call: Call) -> None:
        """Raises: BadRequest for a body that is too long, Unauthorized for a long one of nobody: they are costly."""
        most = self.most_bytes(call.route)
        if len(call.body) > most:
            raise BadRequest(f"body: must be at most {most} bytes")
        if call.route.access is KEY and call.shown:
            self._key(call, None)
        elif len(call.body) > MAX_UNASKED_BYTES and call.route.access is WORKER:
            self._worker(call, sender(call.body))

    def _failed(self, call: Call, message: Any, error: Exception) -> Answer:
        row = call.route
        if isinstance(error, TooMany | Elsewhere) and row.access is KEY:
            try:
                why = str(error) if isinstance(error, Elsewhere) else f"{route.TOO_MANY}wrong keys"
                return self._put_off(call, route.checked(message), why)
            except BadRequest as wrong:
                error = wrong
        found = problem(error)
        if found is None:
            log.error("a call failed", path=row.path, error=repr(error)[:500])
            self.answers[row.path, 500] += 1
            found = Problem(400, "internal_error", "the server could not answer this call")
        if row.access is KEY:
            self.routed["refused"].add(self.hub.clock.now() - call.now)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in found.headers.items())
        return Answer(found.status, row.word(found), headers=headers)

    def _put_off(self, call: Call, ask: route.RouteAsk, why: str) -> Answer:
        self.routed["put off"].add(self.hub.clock.now() - call.now)
        return Answer(200, route.encode(route.WaitReply(ask.endpoint, why, ask.request_idx or 0)))

    # -- who may ---------------------------------------------------------------------------------------------------

    def _anybody(self, call: Call, message: Any) -> None:
        """Any caller."""

    def _key(self, call: Call, message: Any) -> Principal:
        """Who has the key that the call shows. Raises: Unauthorized, TooMany."""
        key, now = call.shown, call.now
        # The usual clients show the same key in the header and in the body.
        if call.query or (message is not None and (message.api_key != key or message.api_token)):
            in_body = "" if message is None else route.key_in(message)
            key = one_key(key, in_body, key_in_query(call.query))
        principal = self.keyring.remembered(key, now) or self.throttle.principal(self.keyring, key, call.address, now)
        if principal is None:
            raise Unauthorized("api_key: missing, wrong, revoked, or two that differ")
        call.proven = True
        return principal

    def _reader(self, call: Call, message: Any) -> Principal:
        principal = self._key(call, None)
        if principal.scope < Scope.READ:
            raise Unauthorized("api_key: this key may not read")
        if principal.account_id != DEFAULT_ACCOUNT:  # what there is to read is of every account
            raise Unauthorized("api_key: only a key of the first account may read this")
        return principal

    def _worker(self, call: Call, message: Any) -> ManagedEndpoint:
        """The endpoint of the worker that calls. Raises: Unauthorized, TooMany where it tells too much."""
        worker_id, token, *_ = message
        if call.token or call.authorization:
            token = one_key(token, call.token, password_in_header(call.authorization))
        home = self.ingest.home(worker_id, token)
        call.proven = True
        if not call.counted:
            call.counted = True
            self.ingest.count(worker_id, len(call.body))
        return home

    # -- what it does ----------------------------------------------------------------------------------------------

    def _route(self, call: Call, message: Any, principal: Principal, respond: Respond) -> Leave | None:
        """Calls beyond the rates are answered that they wait, and nothing is remembered of them: the protocol's client
        gives a request up for any other answer."""
        ask = message if type(message) is route.RouteAsk else route.checked(message)
        listed = self.hub.directory.find(principal.account_id, ask.endpoint)
        if listed is None:
            raise BadRequest(f"endpoint: there is no endpoint named {ask.endpoint!r}")
        if (managed := listed.managed) is None:
            raise Elsewhere("another server has this endpoint", endpoint_id=listed.endpoint.id)
        if principal.endpoint_id is not None and principal.endpoint_id != managed.fleet.endpoint.id:
            raise Unauthorized("api_key: this key is for another endpoint")
        if not self.throttle.allows_route(principal.key_id, call.address, call.now):
            respond(self._put_off(call, ask, f"{route.TOO_MANY}calls"))
            return None

        deliver: Deliver = partial(self._deliver, call, message, respond)
        go = self.router.route if principal.meter is None else partial(self._route_within_limits, principal.meter)
        if tracing.on:
            go = partial(traced, call, go)
        call.at_once = True
        leave = go(managed, ask, deliver, principal.key_id, call.now)
        call.at_once = False
        return leave

    def _deliver(
        self, call: Call, message: Any, respond: Respond, reply: route.RouteReply | route.WaitReply | Exception
    ) -> None:
        if isinstance(reply, Exception):
            respond(self._failed(call, message, reply))
            return
        histogram = self.routed["worker" if type(reply) is route.RouteReply else "waits"]
        if call.at_once:  # in microseconds: not worth another look at the clock
            histogram.counts[0] += 1
        else:
            histogram.add(self.hub.clock.now() - call.now)
        respond(Answer(200, route.encode(reply)))

    def _route_within_limits(
        self, meter: Meter, managed: ManagedEndpoint, ask: route.RouteAsk, deliver: Deliver, caller: str, now: float
    ) -> Leave | None:
        def deliver_within(reply: route.RouteReply | route.WaitReply | Exception) -> None:
            if isinstance(reply, OverLimit):
                status = f"{route.TOO_MANY}requests: {reply}"
                after_s = round(reply.retry_after_s, 3)
                reply = route.WaitReply(ask.endpoint, status, ask.request_idx or 0, retry_after_s=after_s)
            if ask.estimate and not isinstance(reply, Exception):
                reply.limits = meter.left(self.hub.clock.now())
            deliver(reply)

        return self.router.route_within(meter, managed, ask, deliver_within, caller, now)

    def _report(self, call: Call, message: Any, managed: ManagedEndpoint, respond: Respond) -> None:
        worker_id, _, report = message
        self.ingest.report(managed, worker_id, report)
        respond(SUCCESS)

    def _ended(self, call: Call, message: Any, managed: ManagedEndpoint, respond: Respond) -> None:
        worker_id, _, ended = message
        self.ingest.ended(managed, worker_id, ended)
        respond(SUCCESS)

    def _sign_certificate(self, call: Call, request: bytes, _caller: None, respond: Respond) -> Leave:
        asked = parse_qs(call.query.decode("latin-1")).get("instance_id", [""])[0]
        if not re.fullmatch(r"[0-9]{1,16}", asked):
            raise BadRequest(f"instance_id: must be the number in CONTAINER_ID, not {asked[:40]!r}")

        async def sign() -> None:
            try:
                pem = await self.certificates.sign(int(asked), call.token, call.address, request)
            except Exception as error:  # noqa: BLE001 - as in `answer`
                self._not_done(call, request, error, respond)
            else:
                respond(Answer(200, pem, PEM))

        return begun(sign(), self._tasks)

    def _metrics(self, call: Call, message: Any, caller: Any, respond: Respond) -> None:
        respond(Answer(200, self.metrics(), CONTENT_TYPE))

    def _public_key(self, call: Call, message: Any, caller: Any, respond: Respond) -> None:
        time = (TIME_HEADER.encode(), b"%.3f" % self.hub.clock.now())
        respond(Answer(200, self.router.signer.public_pem.encode(), PEM, (time,)))

    def _root_certificate(self, call: Call, message: Any, caller: Any, respond: Respond) -> None:
        respond(Answer(200, self.root_certificate, b"application/x-x509-ca-cert"))

    def _alive(self, call: Call, message: Any, caller: Any, respond: Respond) -> None:
        respond(Answer(200, b'{"alive":true}'))

    def _ready(self, call: Call, message: Any, caller: Any, respond: Respond) -> None:
        if why := self.ready():
            respond(Answer(503, route.encode({"ready": False, "why": why})))
        else:
            respond(Answer(200, route.encode({"ready": True, "troubles": self.troubles()})))

    def _methods(self, call: Call, message: Any, caller: Any, respond: Respond) -> None:
        """Says which methods there are: to OPTIONS, and to one that is not among them."""
        path, method = call.route.path, call.route.method
        allowed = ", ".join(sorted({*_BY_PATH[path], "OPTIONS"}))
        headers = ((b"allow", allowed.encode()),)
        if method == "OPTIONS":
            respond(Answer(200, b"", headers=headers))
        else:
            respond(Answer(405, route.encode({"error": f"method: {path} takes {allowed}"}), headers=headers))


def _nothing(body: bytes) -> None:
    """Of a body that means nothing."""


def _unread(body: bytes) -> bytes:
    return body


def _other_method(path: str, method: str) -> Route:
    return Route(method, path, PUBLIC, _nothing, FastPath._methods)


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


PUBLIC: Final = Access("public", FastPath._anybody)
READ: Final = Access("read", FastPath._reader)
"""Callers with an account key of that scope."""
KEY: Final = Access("key", FastPath._key)
"""Callers with an account key, or that endpoint's."""
WORKER: Final = Access("worker", FastPath._worker)
"""A worker with its own token."""
PLACED: Final = Access("placed", FastPath._anybody)
"""The same, or who calls from where that worker's instance is: `Certificates` waits for the provider to say where."""

_ROWS: Final = (
    Route("POST", "/route", KEY, route.decode, FastPath._route, max_bytes=MAX_ASK_BYTES),
    Route("POST", "/worker_status", WORKER, status.decode, FastPath._report),
    Route("POST", "/delete_requests", WORKER, deletes.decode, FastPath._ended),
    # The protocol has this call beside the management API, so its errors have that shape.
    Route("POST", "/sign_cert", PLACED, _unread, FastPath._sign_certificate, web_body),
    Route("GET", "/pubkey", PUBLIC, _nothing, FastPath._public_key),
    Route("GET", "/static/jvastai_root.cer", PUBLIC, _nothing, FastPath._root_certificate),
    Route("GET", "/healthz", PUBLIC, _nothing, FastPath._alive),
    Route("GET", "/readyz", PUBLIC, _nothing, FastPath._ready),
    Route("GET", "/metrics", READ, _nothing, FastPath._metrics),
)
ROUTES: Final = {(row.method, row.path): row for row in _ROWS}
"""Every call of the fast path. Each also answers under /api/v0 and with a trailing slash; GET answers HEAD, too."""
_BY_PATH: Final = {row.path: {row.method: row} | ({"HEAD": row} if row.method == "GET" else {}) for row in _ROWS}
_USUAL: Final = {
    (method, f"{prefix}{path}{slash}"): (row, "")
    for path, rows in _BY_PATH.items()
    for method, row in rows.items()
    for prefix in ("", "/api/v0")
    for slash in ("", "/")
}
"""The rows by the usual spellings of their paths."""
