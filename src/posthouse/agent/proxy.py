"""Requests of clients: checked, counted, passed on to the model server, and the answers passed back as they come."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
from yarl import URL

from posthouse import logs
from posthouse.agent.grant import (
    AuthData,
    BadBody,
    BadGrant,
    Grants,
    from_header,
    session_call,
    signature_check,
    split,
)
from posthouse.agent.outward import Cors, Outward, traced
from posthouse.agent.server import Server
from posthouse.agent.session import Session, Sessions, as_request, terms
from posthouse.agent.settings import AgentSettings
from posthouse.agent.websocket import Rejected, join
from posthouse.agent.work import Work
from posthouse.agent.worker import Outcome, Request, Worker
from posthouse.gate import Gate, TooLarge, TooSlow, counted, place_of, unpacked
from posthouse.relay import Ending, Failure, Relay
from posthouse.wire.grant import AUTH_HEADER

log = logging.getLogger(__name__)

_LOGGED_PATH: Final = 200  # characters of a path that are logged

# The model has no business with a client's keys.
_WITHHELD: Final = frozenset({"authorization", AUTH_HEADER.lower()})
_KEYS: Final = frozenset({"api_key", AUTH_HEADER.lower()})  # the same in the query
_ENDED_BY: Final[dict[Ending, Outcome]] = {"client left": "Cancelled", "broken": "Error"}


class Refused(Exception):
    """The request is refused; the text is the reason that its client gets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Proxy:
    """The way from a client to the model server and back."""

    def __init__(
        self, settings: AgentSettings, worker: Worker, session: ClientSession, server: Server, gate: Gate
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._gate = gate
        self._outward = Outward(settings)
        self._cors = Cors(settings.cors_origins)
        self._relay = Relay(
            session,
            settings.max_body_bytes,
            self._refused,
            worker.answered,
            self._outward.translate,
            _WITHHELD,
            settings.stall_s,
        )
        self._work = Work(settings, self._refused)
        self._is_genuine = signature_check(settings.url)
        self._server = server
        self._grants = Grants(server, settings)
        self._slots = asyncio.Semaphore(settings.parallel) if settings.parallel else contextlib.nullcontext()
        self.sessions = Sessions(settings, worker, session)
        self.cut_off = False
        """Requests that are cancelled from now on are cancelled by us, not by their clients."""

    def application(self) -> web.Application:
        """Return the HTTP application. Run it with `handler_cancellation`."""
        app = web.Application(middlewares=[counted, _errors_as_json, self._preflight])
        app.on_response_prepare.append(self._cors.allow)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.post("/session/create", self._create_session),
                web.post("/session/get", self._get_session),
                web.post("/session/health", self._session_health),
                web.post("/session/end", self._end_session),
                web.route("*", "/{path:.*}", self._serve),
            ]
        )
        return app

    @web.middleware
    async def _preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        return self._cors.preflight(request) or await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        worker = self._worker
        return _json(
            {
                "ready": worker.ready and not worker.stopping,
                "stopping": worker.stopping,
                "error": worker.failure or worker.illness,
                "requests": len(worker.in_flight),
                "perf": worker.perf,
            }
        )

    async def _create_session(self, client: web.Request) -> web.Response:
        worker, settings = self._worker, self._settings
        async with self._body(client) as body:
            try:
                auth_data, payload, _ = split(body)
                asked = terms(payload, settings.max_session_s)
            except BadBody as error:
                raise Refused(422, str(error)) from None
            if not auth_data.request_idx:
                missing = "is missing; without it the server does not know of the session"
                raise Refused(422, f"auth_data.request_idx: {missing}")
            max_cost = await self._authenticate(auth_data, client, up=True)
        request = as_request(auth_data)
        try:
            self._require_serving()
            if len(self.sessions) >= settings.max_sessions:
                raise Refused(429, f"{settings.max_sessions} sessions are open here already, which is the limit")
        except Refused:
            worker.end(request, "Rejected")
            raise
        session = self.sessions.open(request, auth_data, asked, max_cost)
        return _json({"session_id": session.id, "expiration": session.expiration}, 201)

    async def _get_session(self, client: web.Request) -> web.Response:
        session = await self._called(client)
        if session is None:
            raise Refused(400, "session does not exist")
        return _json(
            {
                "session_id": session.id,
                "auth_data": session.auth_data,
                "lifetime": session.terms.lifetime,
                "expiration": session.expiration,
                "created_at": session.request.entered_queue_at,
                "on_close_route": session.terms.on_close_route,
                "on_close_payload": session.terms.on_close_payload,
            }
        )

    async def _session_health(self, client: web.Request) -> web.Response:
        return _json({"ok": await self._called(client) is not None})

    async def _end_session(self, client: web.Request) -> web.Response:
        session = await self._called(client)
        if session is None:
            raise Refused(400, "session does not exist")
        await self.sessions.close(session)
        return _json({"ended": True, "removed_session": session.id})

    async def _called(self, client: web.Request) -> Session | None:
        """Return the open session that a call about one names. Raises: Refused if the caller may not make it."""
        async with self._body(client) as body:
            try:
                session_id, auth_data = session_call(body)
            except BadBody as error:
                raise Refused(422, str(error)) from None
        session = self.sessions.find(session_id)
        if session is not None and not session.is_of(auth_data):
            raise Refused(401, "session_auth: is not what the session was created with")
        return session

    async def _serve(self, client: web.Request) -> web.StreamResponse:
        proof = client.headers.get(AUTH_HEADER) or _in_query(client)
        session_id, body = None, None
        if proof is not None:
            try:
                auth_data = from_header(proof)
            except BadBody as error:
                raise Refused(422, str(error)) from None
            session, max_cost = await self._allowed(client, auth_data, None)
        elif client.method != "POST" and not client.can_read_body:
            raise Refused(401, f"a request without a body must bring what /route/ answered in {AUTH_HEADER}")
        else:
            async with self._body(client) as raw:
                try:
                    auth_data, body, session_id = split(raw)
                except BadBody as error:
                    raise Refused(422, str(error)) from None
                session, max_cost = await self._allowed(client, auth_data, session_id)
        async with self._work.body(client) if body is None else contextlib.nullcontext(None) as own:
            content_type = "" if own is None else client.headers.get("Content-Type", "")
            work = await self._work.of(body or own, content_type, auth_data.cost)
            light, idx = not (work or body or own), auth_data.request_idx or 0
            request = Request(idx, work, is_light=light, in_session=session is not None)
            return await self._counted(client, request, max_cost, session, (body, own))

    async def _counted(
        self,
        client: web.Request,
        request: Request,
        max_cost: float,
        session: Session | None,
        body: tuple[bytes | None, bytes | None],
    ) -> web.StreamResponse:
        """Pass a request on whose work is known, and its answer back. `body`: as `_forward` takes it."""
        try:
            self._admit(request, max_cost)
        except Refused:
            self._worker.end(request, "Rejected")
            raise
        self._worker.start(request)
        outcome: Outcome = "Error"
        status, tokens = 0, self._work.tokens()
        try:
            with self.sessions.request_in(session, client.transport):
                slots = contextlib.nullcontext() if request.is_light else self._slots
                async with slots, traced(client, request.request_idx) as told:
                    request.work_started_at = time.time()
                    response, ending = await self._forward(client, *body, tokens.feed)
                    told(status := response.status)
            outcome = _ENDED_BY.get(ending) or _outcome(status)
            return response
        except Refused as refusal:
            status = refusal.status
            outcome = "Error" if status >= 500 else "Rejected"
            raise
        except asyncio.CancelledError:
            outcome = "Error" if self.cut_off else "Cancelled"
            raise
        finally:
            done, counted = (request.work, tokens.counted(outcome)) if status < 400 else (0.0, 0.0)
            counted = counted if self._server.is_ours else None
            self._worker.end(request, outcome, done=done if outcome == "Success" else 0.0, counted=counted)
            log.info(
                "request %d: %s, status %d, work %g, waited %.3f s, took %.3f s, %s %r",
                request.request_idx,
                outcome,
                status,
                request.work,
                (request.work_started_at or time.time()) - request.entered_queue_at,
                time.time() - request.entered_queue_at,
                client.method,
                client.path[:_LOGGED_PATH],
            )

    @contextlib.asynccontextmanager
    async def _body(self, client: web.Request) -> AsyncIterator[bytes]:
        """The body of a client that has shown no proof yet; it counts as such within. Raises: Refused."""
        coding = client.headers.get("Content-Encoding", "identity").lower()
        with self._gate.reading(client) as reader:
            try:
                body = unpacked(await reader.read(), coding)
            except TooLarge as error:
                raise Refused(413, str(error) or self._too_large()) from None
            except TooSlow:
                place_of(client).give_up()
                raise Refused(408, "body: did not arrive in time, or memory is short; try again") from None
            yield body

    async def _allowed(
        self, client: web.Request, auth_data: AuthData, session_id: str | None
    ) -> tuple[Session | None, float]:
        """Return the session that the request is in, if any, and how much work it may be. Raises: Refused."""
        if session_id is None:
            return None, await self._authenticate(auth_data, client)
        session = self.sessions.find(session_id)
        if session is None:
            raise Refused(410, "invalid session")
        if not session.is_of(auth_data):
            raise Refused(401, "auth_data: is not what the session was created with")
        self._gate.prove(client)
        return session, session.max_cost

    async def _forward(
        self, client: web.Request, body: bytes | None, own: bytes | None, passes: Callable[[bytes], None]
    ) -> tuple[web.StreamResponse, Ending]:
        """Pass the request on, and its answer back.

        `body`: JSON that the model gets in place of the client's own. `own`: the client's, where it was read.
        `passes`: called with each piece of the answer.
        """
        url, headers = _upstream_url(self._settings.upstream, client.rel_url), self._outward.told(client)
        if client.headers.get("Upgrade", "").lower() == "websocket":
            settings = self._settings
            try:
                return await join(self._relay, client, url, headers, settings.max_body_bytes, settings.silence_s)
            except Rejected as error:
                raise Refused(error.status, "the model server takes no WebSocket here") from None
        if body is not None:
            headers["Content-Type"] = "application/json"
        return await self._relay.forward(client, url, own if body is None else body, headers, passes)

    async def _authenticate(self, auth_data: AuthData, client: web.Request, up: bool = False) -> float:
        """Return how much work the request may be. Raises: Refused, unless the server gave leave for this very one.

        `up`: its grant is used up by it.
        """
        max_cost = math.inf if self._settings.unsecured else await self._granted(auth_data, client.path, up)
        self._gate.prove(client)
        return max_cost

    async def _granted(self, auth_data: AuthData, path: str, up: bool) -> float:
        server = self._server
        if server.verify is None or not server.began_at:
            raise Refused(401, "the server's public key is not there yet; try again")
        if grant := self._grants.find(auth_data):
            try:
                await self._grants.use(grant, auth_data, path, up)
            except BadGrant as error:
                # 408 lets the known clients ask /route/ again; 401 is final.
                raise Refused(408 if error.stale else 401, str(error)) from None
            return grant.max_cost
        if server.requires_grant:
            raise Refused(401, "signature: is no grant; pass on what /route/ answered for this worker")
        if not self._is_genuine(server.verify, auth_data):
            raise Refused(401, "signature: does not verify for this worker's url")
        return math.inf

    def _require_serving(self) -> None:
        if self._worker.stopping:
            raise Refused(503, "this worker is stopping")
        if not self._worker.perf:
            raise Refused(503, "the model is not ready")

    def _admit(self, request: Request, max_cost: float) -> None:
        """Raises: Refused when the request cannot be taken."""
        if request.work > max_cost:
            raise Refused(422, f"the request asks for more work than its grant allows, {max_cost:g}")
        worker, settings = self._worker, self._settings
        if not request.in_session:  # what was begun may be brought to its end while the worker stops
            self._require_serving()
        if len(worker.in_flight) >= settings.max_requests:
            raise Refused(429, f"{settings.max_requests} requests are here already, which is the limit")
        if (wait_s := worker.wait_s) > (most_s := settings.max_queue_time_s) and not request.is_light:
            raise Refused(429, f"the expected wait is {wait_s:.1f} s, longer than {most_s:g} s")

    def _refused(self, failure: Failure) -> Refused:
        if failure == "too large":
            return Refused(413, self._too_large())
        if failure == "too slow":
            return Refused(408, f"body: nothing of it came for {self._settings.stall_s:g} s")
        if failure == "silent":
            return Refused(504, "the model server does not answer")
        if failure == "broke off":
            return Refused(502, "the model server broke off before its answer")
        return Refused(503, "the model server cannot be reached")  # it has begun nothing

    def _too_large(self) -> str:
        return f"body: must be at most {self._settings.max_body_bytes} bytes"


def _upstream_url(upstream: str, url: URL) -> URL:
    """Return where a request for `url` goes. The base comes first whatever the path, so that no other host is met."""
    # Clients put their key into the query.
    query = "&".join(p for p in url.raw_query_string.split("&") if p.partition("=")[0].lower() not in _KEYS)
    path = f"{url.raw_path}?{query}" if query else url.raw_path
    return URL(f"{upstream.rstrip('/')}/{path.removeprefix('/')}", encoded=True)


def _in_query(client: web.Request) -> str | None:
    """Return the auth data in the query, under the header's name however it is spelled."""
    return next((value for name, value in client.query.items() if name.lower() == AUTH_HEADER.lower()), None)


def _outcome(status: int) -> Outcome:
    """Return how a request ended for the worker; most 4xx are the client's own doing, and so is a call that a model
    server says it does not have."""
    if status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED:
        return "Error"
    return "Rejected" if status == 429 else "Success"


def _json(reply: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), status=status, content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    logs.request_id.set(request.headers.get("X-Request-ID", "")[:128])
    try:
        return await handler(request)
    except Refused as refusal:
        return _json({"error": str(refusal)}, refusal.status)
    except web.HTTPException as error:
        return _json({"error": error.text or error.reason}, error.status)
    except Exception:  # the seam of a request: our own bug must not show its traceback to a client
        log.exception("request: unexpected error")
        return _json({"error": "internal error"}, 500)
