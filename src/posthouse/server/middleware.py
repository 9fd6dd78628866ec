"""In front of the management API. Each of these does one thing; `add_middleware` puts them in their order."""

import asyncio
import codecs
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posthouse.audit import Actor, actor
from posthouse.errors import BadRequest, Unauthorized
from posthouse.ports import Clock
from posthouse.server.api.validation import worded
from posthouse.server.auth import Keyring, Principal, keys_in
from posthouse.server.console.sessions import Sessions
from posthouse.server.errors import Forbidden, Problem, TooLarge, problem, web_body
from posthouse.server.policies import POLICIES
from posthouse.server.throttle import Throttle

log = structlog.get_logger()

MAX_BODY_BYTES: Final = 1_048_576
"""Longest request body; a template with its readme stays below."""
MAX_DEPTH: Final = 32
"""Deepest nesting of a body's JSON; the protocol's own needs 4."""
BODY_WAIT_S: Final = 30.0
"""How long a body may take to arrive."""
Wrapping = Callable[[ASGIApp], ASGIApp]


async def nobody(request: Request, **query: int) -> list[Any]:
    """What the other servers answer to a call, where there are none."""
    return []


class Sharing(NamedTuple):
    """What one of several servers has beside a single one."""

    innermost: Sequence[Wrapping] = ()
    """What stands behind all other middleware."""
    throttled: Sequence[Wrapping] = ()
    """What stands behind the throttle."""
    others: Callable[..., Awaitable[list[Any]]] = nobody
    """What each of the other servers answers to the same call, but for `query`."""


NO_SHARING: Final = Sharing()
"""Of a server that has its store to itself."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class ErrorMiddleware:
    """Answers with what was raised. What nobody foresaw is logged and raised again once it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except ClientGone:
            return
        except Exception as error:
            found = problem(error, scope["path"])
            if not started:
                await _response(found or _unforeseen(error, scope))(scope, receive, send)
            if found is None:
                raise


class RequestMiddleware:
    """Lets plain requests in: paths without a slash at their end, HEAD as the GET that it stands for, no websockets.

    Each has an id: the caller's own `X-Request-ID` where it has a decent one. The answer carries it, and so does what
    is logged and noted of the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # no policy speaks of these
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return
        scope["path"] = scope["path"].rstrip("/") or "/"
        if scope["method"] == "HEAD":  # the connection sends no body
            scope["method"] = "GET"
        said = Headers(scope=scope).get("x-request-id", "")
        request_id = said if _REQUEST_ID.fullmatch(said) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_id)


class ThrottleMiddleware:
    """Limits how often an address calls. Raises: TooMany."""

    def __init__(self, app: ASGIApp, throttle: Throttle, clock: Clock) -> None:
        self.app = app
        self.throttle = throttle
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.throttle.call_from(address_of(scope), self.clock.now())
        await self.app(scope, receive, send)


class BodyMiddleware:
    """Reads the body before anything is done, in a bounded time and space. Raises: TooLarge, BadRequest, ClientGone."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, wait_s: float = BODY_WAIT_S) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.wait_s = wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.wait_s):
                body = await self._read(receive)
        except TimeoutError:
            raise BadRequest(f"body: did not arrive within {self.wait_s:g} s") from None
        scope["state"] = {**scope.get("state", {}), "raw_body": body}
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send)

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                raise TooLarge(f"body: must be at most {self.max_bytes} bytes")
        return bytes(body)


class JsonMiddleware:
    """Refuses what is not JSON, or nested too deeply for what reads it. Raises: BadRequest."""

    def __init__(self, app: ASGIApp, max_depth: int = MAX_DEPTH) -> None:
        self.app = app
        self.max_depth = max_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["body"] = self._decoded(scope["state"]["raw_body"])
        await self.app(scope, receive, send)

    def _decoded(self, raw: bytes) -> object:
        """The JSON that was sent; None if nothing was."""
        if not raw.strip():
            return None
        try:
            body: object = msgspec.json.decode(raw.removeprefix(codecs.BOM_UTF8))
        except RecursionError:
            raise BadRequest(f"body: is nested deeper than {self.max_depth} levels") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"body: is not JSON: {error}") from None
        level: list[object] = [body]
        for _ in range(self.max_depth):
            level = [inner for outer in level for inner in _inside(outer)]
            if not level:
                return body
        raise BadRequest(f"body: is nested deeper than {self.max_depth} levels")


class AuthMiddleware:
    """Lets nobody in but with a key that the policy of the route asks for. Raises: Unauthorized, Forbidden, TooMany."""

    def __init__(self, app: ASGIApp, keyring: Keyring, sessions: Sessions, throttle: Throttle, clock: Clock) -> None:
        self.app = app
        self.keyring = keyring
        self.sessions = sessions
        self.throttle = throttle
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes = scope["app"].routes
        route = next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)
        if route is not None:  # or the application itself says 404 or 405
            path: str = getattr(route, "path_format", "") or getattr(route, "path", "")
            call = (scope["method"], path)
            principal = scope["state"]["principal"] = self._principal(scope, call)
            actor.set(self._actor(principal, f"{scope['method']} {path}", scope["state"]["request_id"]))
        await self.app(scope, receive, send)

    def _actor(self, principal: Principal | None, call: str, request_id: str) -> Actor:
        """Who acts in what is done from now on for this request."""
        who = Actor("nobody", call=call, request_id=request_id, at=self.clock.now())
        return who if principal is None else self.keyring.acting(principal, who)

    def _principal(self, scope: Scope, call: tuple[str, str]) -> Principal | None:
        """Who calls; None where the route is public."""
        if call not in POLICIES:
            raise Forbidden("this call has no policy, so nobody may make it")
        least = POLICIES[call]
        if least is None:
            return None
        headers, now = Headers(scope=scope), self.clock.now()
        key = keys_in(headers, scope["query_string"], scope["state"]["body"])
        principal: Principal | None
        if signed_in := scope["state"].get("signed_in"):  # another server has seen the session
            principal = signed_in
        elif key:
            principal = self.throttle.principal(self.keyring, key, address_of(scope), now)
        else:
            principal = self.sessions.caller(scope["method"], headers, now)
        if principal is None:
            missing = "a key is missing, or two differ: send one as the header Authorization: Bearer KEY"
            raise Unauthorized("the key is wrong or revoked" if key else missing)
        self.throttle.call_with(principal.key_id, now)
        if principal.scope < least:
            raise Forbidden(
                f"this key has the scope {principal.scope.name.lower()}, and this call needs {least.name.lower()}"
            )
        return principal


class ClientGone(Exception):
    """The client left: nobody is there to be answered."""


def add_middleware(
    app: FastAPI, keyring: Keyring, sessions: Sessions, throttle: Throttle, clock: Clock, sharing: Sharing
) -> None:
    """Puts all of these in front of the application, the innermost first."""
    for own in sharing.innermost:
        app.add_middleware(own)
    app.add_middleware(AuthMiddleware, keyring=keyring, sessions=sessions, throttle=throttle, clock=clock)
    app.add_middleware(JsonMiddleware)
    app.add_middleware(BodyMiddleware)
    for own in sharing.throttled:
        app.add_middleware(own)
    app.add_middleware(ThrottleMiddleware, throttle=throttle, clock=clock)
    app.add_middleware(ErrorMiddleware)
    app.add_middleware(RequestMiddleware)


def add_error_handlers(app: FastAPI) -> None:
    """Gives the framework's own errors the shape of all others."""

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_args")
        text = f"there is no call {request.method} {request.url.path[:200]} here; /docs lists those that there are"
        return _response(Problem(error.status_code, code, text, error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        return _response(Problem(400, "invalid_args", worded(error, request.scope.get("route"))))


def _caller(request: Request) -> Principal:
    principal = request.state.principal
    assert isinstance(principal, Principal)  # no handler of a public route asks
    return principal


Caller = Annotated[Principal, Depends(_caller)]
"""Who calls."""


def is_passed(request: Request) -> bool:
    """Whether another server has passed the call on, or asks for this one's part."""
    return bool(request.scope["state"].get("passed"))


def check_installation_admin(caller: Principal, what: str) -> None:
    """Raises: Forbidden where the caller is no admin of the installation itself."""
    if caller.sees is not None:
        raise Forbidden(f"{what} are for the installation's own admins: this key is of another account")


def check_endpoint(caller: Principal, endpoint_id: int) -> None:
    """Raises: Forbidden if the caller's key is for another endpoint than this one."""
    if caller.endpoint_id not in (None, endpoint_id):
        raise Forbidden("this key is for another endpoint")


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def address_of(scope: Scope) -> str:
    """Where the call comes from; empty where that is not known."""
    return scope["client"][0] if scope.get("client") else ""


def _unforeseen(error: Exception, scope: Scope) -> Problem:
    """The answer for an unexpected error: where to look. The log gets the rest."""
    request_id, path = scope["state"]["request_id"], scope["path"]
    # A trace without the values of variables: they may be keys.
    trace = "".join(traceback.format_exception(error))[-8000:]
    log.error("a request failed", request_id=request_id, path=path, trace=trace)
    text = f"the server failed on this request; its log has more under the id {request_id}"
    return Problem(500, "internal_error", text)


def _response(found: Problem) -> Response:
    return Response(web_body(found), found.status, found.headers, "application/json")
