"""Sessions: a client's hold on this worker, in which it sends requests without asking the server for each."""

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from msgspec import Raw
from yarl import URL

from posthouse.agent.grant import AuthData, BadBody
from posthouse.agent.settings import AgentSettings
from posthouse.agent.worker import Outcome, Request, Worker
from posthouse.agent.workload import workload_rule

log = logging.getLogger(__name__)

_ID_CHARACTERS: Final = 13  # as many as the peer's worker gives; 77 bits, random, so that the next cannot be guessed
_EXPIRY_POLL_S: Final = 1.0  # seconds between two looks for sessions whose time is over
_MAX_ROUTE: Final = 512  # characters of a path that is kept until the close
_MAX_PAYLOAD_BYTES: Final = 2**16  # of what is kept until the close
_CLOSE_TIMEOUT = ClientTimeout(total=10)  # as long as the peer's worker waits for the model server
# A path of plain segments. What could lead to another host (//host, http://host, @, \, % of any of them) is not one.
_ROUTE: Final = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.~-]*)+", re.ASCII)


class Terms(msgspec.Struct, frozen=True):
    """What a client asks of its session."""

    lifetime: float = 60.0
    """Seconds that it stays open, and that each request in it adds; the wire's name and default."""
    on_close_route: str | None = None
    """Path on the model server that is called once it is closed."""
    on_close_payload: Any = None


class _Asked(msgspec.Struct):
    lifetime: float = 60.0
    on_close_route: str | None = None
    on_close_payload: Raw = Raw(b"null")


_asked = msgspec.json.Decoder(_Asked)
_work_of = workload_rule("cost")  # what will be asked in a session is not known when it is opened


def terms(payload: bytes, max_session_s: float) -> Terms:
    """Return what the payload of a session's creation asks for. Raises: BadBody."""
    try:
        asked = _asked.decode(payload)
        on_close_payload = msgspec.json.decode(asked.on_close_payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"payload: must be a JSON object that says what the session is to be: {error}") from None
    if not 0 < asked.lifetime <= max_session_s:
        raise BadBody(f"payload.lifetime: must be above 0 and at most {max_session_s:g} s, not {asked.lifetime:g}")
    route = asked.on_close_route
    if route is not None and (len(route) > _MAX_ROUTE or not _ROUTE.fullmatch(route)):
        raise BadBody(
            "payload.on_close_route: must be a path on the model server like /session/closed, of letters, digits and "
            f"_.~- between slashes, at most {_MAX_ROUTE} characters"
        )
    if len(bytes(asked.on_close_payload)) > _MAX_PAYLOAD_BYTES:
        raise BadBody(f"payload.on_close_payload: must be at most {_MAX_PAYLOAD_BYTES} bytes")
    return Terms(asked.lifetime, route, on_close_payload)


def as_request(auth_data: AuthData) -> Request:
    """Return a new session as the server knows it: a request that lasts as long as the session."""
    now = time.time()  # once: by the two times that are the same the server knows a session when it has ended
    work = _work_of(None, auth_data.cost)
    return Request(auth_data.request_idx or 0, work, entered_queue_at=now, work_started_at=now, is_session=True)


@dataclass(slots=True, eq=False)
class Session:
    """A session that is open."""

    id: str
    auth_data: AuthData
    terms: Terms
    request: Request
    """As the server knows it."""
    max_cost: float
    """The most work that a request in it may be."""
    expires_at: float
    """By `time.monotonic`, so that setting the clock does not end it."""
    inside: set[asyncio.Transport] = field(default_factory=set)
    """The connections of the requests in it."""

    @property
    def expiration(self) -> float:
        """When it ends unless a request comes. Units: epoch seconds."""
        return time.time() + self.expires_at - time.monotonic()

    def is_of(self, auth_data: AuthData | None) -> bool:
        """Return whether this is the auth data that the session was opened with, in a time that tells nothing."""
        return hmac.compare_digest(msgspec.json.encode(auth_data), msgspec.json.encode(self.auth_data))


class Sessions:
    """The sessions that are open."""

    def __init__(self, settings: AgentSettings, worker: Worker, upstream: ClientSession) -> None:
        self._settings = settings
        self._worker = worker
        self._upstream = upstream
        self._open: dict[str, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def find(self, session_id: str) -> Session | None:
        return self._open.get(session_id)

    def open(self, request: Request, auth_data: AuthData, terms: Terms, max_cost: float) -> Session:
        """Return a new session. Reports name it as a request from now on."""
        session_id = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_ID_CHARACTERS))
        session = Session(session_id, auth_data, terms, request, max_cost, time.monotonic() + terms.lifetime)
        self._open[session_id] = session
        self._worker.start(request)
        log.info("session %d: opened for %g s, work %g", request.request_idx, terms.lifetime, request.work)
        return session

    @contextlib.contextmanager
    def request_in(self, session: Session | None, transport: asyncio.Transport | None) -> Iterator[None]:
        """Keep the session, if there is one, open for a request in it, and for longer afterwards."""
        if session is None or transport is None:  # None: its client has gone
            yield
            return
        latest_at = time.monotonic() + self._settings.max_session_s
        session.expires_at = min(session.expires_at + session.terms.lifetime, latest_at)
        session.inside.add(transport)
        try:
            yield
        finally:
            session.inside.discard(transport)

    async def close(self, session: Session, outcome: Outcome = "Success") -> None:
        """End a session that is open, and what runs in it; then tell the model server, and only then the server."""
        if self._open.pop(session.id, None) is None:
            return
        for transport in session.inside:
            transport.close()
        # A task of its own: a client that leaves now must not keep the model server from hearing of it.
        task = asyncio.create_task(self._finish(session, outcome))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)

    async def close_all(self) -> None:
        """End every session, as a fault of this worker, and wait for those that end already."""
        ends = [self.close(session, "Error") for session in self._open.values()]
        await asyncio.gather(*ends, *self._closing)

    async def expire(self) -> None:
        """Run until cancelled: end sessions whose time is over, but none with a request in it."""
        while True:
            await asyncio.sleep(_EXPIRY_POLL_S)
            now = time.monotonic()
            over = [s for s in self._open.values() if s.expires_at <= now and not s.inside]
            await asyncio.gather(*(self.close(session) for session in over))

    async def _finish(self, session: Session, outcome: Outcome) -> None:
        request = session.request
        try:
            if session.terms.on_close_route is not None:
                await self._call_on_close(session, session.terms.on_close_route)
        finally:
            self._worker.end(request, outcome, done=request.work if outcome == "Success" else 0.0)
            log.info("session %d: closed after %.1f s", request.request_idx, time.time() - request.entered_queue_at)

    async def _call_on_close(self, session: Session, route: str) -> None:
        payload = session.terms.on_close_payload
        fields = payload if isinstance(payload, dict) else {} if payload is None else {"payload": payload}
        try:
            async with self._upstream.post(
                URL(self._settings.upstream.rstrip("/") + route, encoded=True),
                data=msgspec.json.encode({"session_id": session.id, **fields}),
                headers={"Content-Type": "application/json"},
                timeout=_CLOSE_TIMEOUT,
                allow_redirects=False,  # the model server must not be a way to other hosts
            ) as answer:
                problem = "" if answer.status < 400 else f"status {answer.status}"
        except (ClientError, OSError, TimeoutError) as error:
            problem = type(error).__name__
        if problem:
            log.warning("session %d: on_close: %s", session.request.request_idx, problem)
