"""In front of the management API: reads the body, checks the key against the policies, and words every error."""

import asyncio
import traceback
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posthouse.domain.errors import BadRequest, Busy, NotFound, Refused, StaleVersion, Unauthorized, Unavailable
from posthouse.ports import Clock
from posthouse.server.auth import Keyring, Principal, keys_in
from posthouse.server.policies import POLICIES
from posthouse.server.throttle import Throttle, TooMany

log = structlog.get_logger()

MAX_BODY_BYTES: Final = 1_048_576
"""Longest request body; a template with its readme stays below."""
MAX_DEPTH: Final = 32
"""Deepest nesting of a body's JSON; the protocol's own needs 4."""
BODY_WAIT_S: Final = 30.0
"""How long a body may take to arrive."""

NOT_FOUND_CODES: Final = {
    "endptjobs": "no_such_endpoint",
    "autojobs": "no_such_workergroup",
    "workergroups": "no_such_workergroup",
    "template": "no_such_template",
    "secrets": "no_such_secret",
    "instances": "no_such_instance",
}
"""The protocol's word for what is not there, by the resource in the path: /api/v0/RESOURCE."""


class Forbidden(Unauthorized):
    """The key is known, and may not do this."""


class Gate:
    """An ASGI middleware: no request passes but with a key that the policy of its route asks for."""

    def __init__(self, app: ASGIApp, keyring: Keyring, clock: Clock, throttle: Throttle) -> None:
        self._app = app
        self._keyring = keyring
        self._clock = clock
        self._throttle = throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # no policy speaks of these
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._pass(scope, receive, note_start)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the seam of a request: no traceback may reach a user
            answer = _told(error, scope["path"]) or _kept_quiet(error, scope["path"])
            if not started:
                await answer(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        address = request.client.host if request.client else ""
        self._throttle.call_from(address, self._clock.now())
        raw = await _read(request)
        body = _decoded(raw)
        route = _route(request.app.routes, scope)
        if route is not None:
            principal = self._principal(request, address, route, body)
            scope["state"] = {**scope.get("state", {}), "principal": principal, "body": body}

        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": raw, "more_body": False}

        await self._app(scope, receive_again, send)

    def _principal(self, request: Request, address: str, route: BaseRoute, body: object) -> Principal | None:
        """Who calls; None where the route is public. Raises: Unauthorized, Forbidden, TooMany."""
        path: str = getattr(route, "path_format", "") or getattr(route, "path", "")
        if (request.method, path) not in POLICIES:
            raise Forbidden("this call has no policy, so nobody may make it")
        least = POLICIES[request.method, path]
        if least is None:
            return None
        key = keys_in(request.headers, request.query_params, body)
        if not key:
            raise Unauthorized("a key is missing: send it as the header Authorization: Bearer KEY")
        now = self._clock.now()
        principal = self._throttle.principal(self._keyring, key, address, now)
        if principal is None:
            raise Unauthorized("the key is wrong or revoked")
        self._throttle.call_with(principal.key_id, now)
        if principal.scope < least:
            raise Forbidden(
                f"this key has the scope {principal.scope.name.lower()}, and this call needs {least.name.lower()}"
            )
        return principal


def _caller(request: Request) -> Principal:
    principal = request.state.principal
    assert isinstance(principal, Principal)  # no handler of a public route asks
    return principal


def _ask(request: Request) -> dict[str, Any]:
    body = request.state.body
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise BadRequest("body: must be a JSON object")
    return body


Caller = Annotated[Principal, Depends(_caller)]
"""Who calls."""
Ask = Annotated[dict[str, Any], Depends(_ask)]
"""The JSON object that was sent, empty if none was. Raises: BadRequest for other JSON."""


def check_endpoint(caller: Principal, endpoint_id: int) -> None:
    """Raises: Forbidden if the caller's key is for another endpoint than this one."""
    if caller.endpoint_id not in (None, endpoint_id):
        raise Forbidden("this key is for another endpoint")


def add_error_handlers(app: FastAPI) -> None:
    """Lets the framework's own errors have the shape of all others."""

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_args")
        text = f"there is no call {request.method} {request.url.path[:200]} here; /docs lists those that there are"
        return _error(error.status_code, code, text, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(_request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = [f"{'.'.join(map(str, e['loc'][1:])) or e['loc'][0]}: {e['msg']}" for e in error.errors()[:10]]
        return _error(400, "invalid_args", "; ".join(wrong))


async def _read(request: Request) -> bytes:
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _TooLarge(f"body: must be at most {MAX_BODY_BYTES} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise BadRequest(f"body: did not arrive within {BODY_WAIT_S:g} s") from None
    return b"".join(chunks)


class _TooLarge(BadRequest):
    pass


def _decoded(raw: bytes) -> object:
    """The JSON that was sent; None if nothing was."""
    if not raw.strip():
        return None
    try:
        body: object = msgspec.json.decode(raw)
    except RecursionError:
        raise BadRequest(f"body: is nested deeper than {MAX_DEPTH} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"body: is not JSON: {error}") from None
    level: list[object] = [body]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return body
    raise BadRequest(f"body: is nested deeper than {MAX_DEPTH} levels")


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _route(routes: list[BaseRoute], scope: Scope) -> BaseRoute | None:
    """The route that will answer; None where the application itself says 404 or 405."""
    return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)


def _told(error: Exception, path: str) -> JSONResponse | None:
    """What a caller is told of an error that was raised on purpose; None for any other."""
    text = str(error)
    match error:
        case _TooLarge():
            return _error(413, "too_large", text)
        case BadRequest():
            return _error(400, "invalid_args", text)
        case Forbidden():
            return _error(403, "forbidden", text)
        case Unauthorized():
            return _error(401, "unauthorized", text, {"WWW-Authenticate": "Bearer"})
        case NotFound():
            resource = path.split("/")[3] if path.startswith("/api/v0/") else ""
            return _error(404, NOT_FOUND_CODES.get(resource, "not_found"), text)
        case TooMany():
            return _error(429, "rate_limit_exceeded", text, {"Retry-After": str(error.retry_after_whole_s)})
        case Unavailable():
            return _error(503, "unavailable", text, {"Retry-After": str(error.retry_after_whole_s)})
        case Busy():
            return _error(503, "busy", text, {"Retry-After": str(error.retry_after_whole_s)})
        case StaleVersion() | Refused():
            return _error(409, "conflict", text)
    return None


def _kept_quiet(error: Exception, path: str) -> JSONResponse:
    """What a caller is told of an error that nobody foresaw: where to look. The log gets the rest."""
    request_id = uuid.uuid4().hex
    # A trace without the values of variables: they may be keys.
    trace = "".join(traceback.format_exception(error))[-8000:]
    log.error("a request failed", request_id=request_id, path=path, trace=trace)
    text = f"the server failed on this request; its log has more under the id {request_id}"
    return _error(500, "internal_error", text, {"X-Request-ID": request_id})


def _error(status: int, code: str, text: str, headers: Any = None) -> JSONResponse:
    """The protocol's shape of an error: its command line shows `msg`."""
    return JSONResponse({"success": False, "error": code, "msg": text}, status, headers=headers)
