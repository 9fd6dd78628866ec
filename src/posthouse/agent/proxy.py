"""Requests of clients: checked, counted, passed on to the model server, and the answers passed back as they come."""

import asyncio
import contextlib
import logging
import math
import time
from typing import Final

import msgspec
from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
from yarl import URL

from posthouse.agent.grant import (
    AUTH_HEADER,
    AuthData,
    BadBody,
    BadGrant,
    Grants,
    from_header,
    session_call,
    signature_check,
    split,
)
from posthouse.agent.server import Server
from posthouse.agent.session import Session, Sessions, as_request, terms
from posthouse.agent.settings import AgentSettings
from posthouse.agent.worker import Outcome, Request, Worker
from posthouse.agent.workload import workload_rule
from posthouse.relay import Ending, Failure, Relay

log = logging.getLogger(__name__)

_LOGGED_PATH: Final = 200  # characters of a path that are logged

# The model has no business with a client's keys.
_WITHHELD: Final = frozenset({"authorization", AUTH_HEADER.lower()})
_ENDED_BY: Final[dict[Ending, Outcome]] = {"client left": "Cancelled", "broken": "Error"}


class Refused(Exception):
    """The request is refused; the text is the reason that its client gets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Proxy:
    """The way from a client to the model server and back."""

    def __init__(self, settings: AgentSettings, worker: Worker, session: ClientSession, server: Server) -> None:
        self._settings = settings
        self._worker = worker
        self._relay = Relay(session, settings.max_body_bytes, self._refused, worker.answered, _WITHHELD)
        self._work_of = workload_rule(settings.workload)
        self._is_genuine = signature_check(settings.url)
        self._server = server
        self._grants = Grants(server, settings)
        self._slots = asyncio.Semaphore(settings.parallel) if settings.parallel else contextlib.nullcontext()
        self.sessions = Sessions(settings, worker, session)
        self.cut_off = False
        """Requests that are cancelled from now on are cancelled by us, not by their clients."""

    def application(self) -> web.Application:
        """Return the HTTP application. Run it with `handler_cancellation`."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=self._settings.max_body_bytes)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.post("/session/create", self._create_session),
                web.post("/session/get", self._get_session),
                web.post("/session/health", self._session_health),
                web.post("/session/end", self._end_session),
                web.post("/{path:.*}", self._serve),
            ]
        )
        return app

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
        try:
            auth_data, payload, _ = split(await client.read())
            asked = terms(payload, settings.max_session_s)
        except BadBody as error:
            raise Refused(422, str(error)) from None
        if not auth_data.request_idx:
            raise Refused(422, "auth_data.request_idx: is missing; without it the server does not know of the session")
        max_cost = await self._authenticate(auth_data, client.path, up=True)
        request = as_request(auth_data)
        try:
            self._require_serving()
            if len(self.sessions) >= settings.max_sessions:
                raise Refused(429, f"{settings.max_sessions} sessions are open here already, the most that may")
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
        try:
            session_id, auth_data = session_call(await client.read())
        except BadBody as error:
            raise Refused(422, str(error)) from None
        session = self.sessions.find(session_id)
        if session is not None and not session.is_of(auth_data):
            raise Refused(401, "session_auth: is not what the session was created with")
        return session

    async def _serve(self, client: web.Request) -> web.StreamResponse:
        auth_data, body, session_id = await self._read(client)
        session = None
        if session_id is None:
            max_cost = await self._authenticate(auth_data, client.path)
        elif (session := self.sessions.find(session_id)) is None:
            raise Refused(410, "invalid session")
        elif not session.is_of(auth_data):
            raise Refused(401, "auth_data: is not what the session was created with")
        else:
            max_cost = session.max_cost
        payload = None if body is None else _decoded(body)
        work = self._work_of(payload, auth_data.cost)
        request = Request(auth_data.request_idx or 0, work, in_session=session is not None)
        try:
            if request.work > max_cost:
                raise Refused(422, f"the request asks for more work than its grant allows, {max_cost:g}")
            self._admit(request)
        except Refused:
            self._worker.end(request, "Rejected")
            raise
        self._worker.start(request)
        outcome: Outcome = "Error"
        status = 0
        try:
            with self.sessions.request_in(session, client.transport):
                async with self._slots:
                    request.work_started_at = time.time()
                    headers = {} if body is None else {"Content-Type": "application/json"}
                    response, ending = await self._relay.forward(client, self._upstream_url(client), body, headers)
            status = response.status
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
            self._worker.end(request, outcome, done=request.work if outcome == "Success" and status < 400 else 0.0)
            log.info(
                "request %d: %s, status %d, work %g, waited %.3f s, took %.3f s, POST %r",
                request.request_idx,
                outcome,
                status,
                request.work,
                (request.work_started_at or time.time()) - request.entered_queue_at,
                time.time() - request.entered_queue_at,
                client.path[:_LOGGED_PATH],
            )

    async def _read(self, client: web.Request) -> tuple[AuthData, bytes | None, str | None]:
        """Return the client's auth data, the body that is meant for the model, and the id of the session, if any.

        The body is None where all of the client's own is for the model. Raises: Refused.
        """
        try:
            if (header := client.headers.get(AUTH_HEADER)) is not None:
                return from_header(header), None, None
            return split(await client.read())
        except BadBody as error:
            raise Refused(422, str(error)) from None

    async def _authenticate(self, auth_data: AuthData, path: str, up: bool = False) -> float:
        """Return how much work the request may be. Raises: Refused, unless the server gave leave for this very one.

        `up`: its grant is used up by it.
        """
        if self._settings.unsecured:
            return math.inf
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

    def _admit(self, request: Request) -> None:
        """Raises: Refused when the request cannot be taken."""
        worker, settings = self._worker, self._settings
        if not request.in_session:  # what was begun may be brought to its end while the worker stops
            self._require_serving()
        if len(worker.in_flight) >= settings.max_requests:
            raise Refused(429, f"{settings.max_requests} requests are here already, the most that may")
        if worker.wait_s > settings.max_queue_time_s:
            raise Refused(
                429, f"the expected wait is {worker.wait_s:.1f} s, longer than {settings.max_queue_time_s:g} s"
            )

    def _refused(self, failure: Failure) -> Refused:
        if failure == "too large":
            return Refused(413, f"body: must be at most {self._settings.max_body_bytes} bytes")
        if failure == "silent":
            return Refused(504, "the model server does not answer")
        return Refused(502, "the model server cannot be reached")

    def _upstream_url(self, client: web.Request) -> URL:
        # Clients put their key into the query. The base comes first whatever the path, so that no other host is met.
        url = client.rel_url
        query = "&".join(p for p in url.raw_query_string.split("&") if p.partition("=")[0] != "api_key")
        path = f"{url.raw_path}?{query}" if query else url.raw_path
        return URL(f"{self._settings.upstream.rstrip('/')}/{path.removeprefix('/')}", encoded=True)


def _outcome(status: int) -> Outcome:
    """Return how a request ended for the worker; most 4xx are the client's own doing."""
    if status >= 500:
        return "Error"
    return "Rejected" if status == 429 else "Success"


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):  # wrong or too deep: the model may judge that
        return None


def _json(reply: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), status=status, content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refusal:
        return _json({"error": str(refusal)}, refusal.status)
    except web.HTTPException as error:
        return _json({"error": error.text or error.reason}, error.status)
    except Exception:  # the seam of a request: our own bug must not show its traceback to a client
        log.exception("request: unexpected error")
        return _json({"error": "internal error"}, 500)
