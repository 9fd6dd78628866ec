"""Errors in the shape of OpenAI's API, or of Anthropic's: what a caller is told, and how its client acts on it."""

import math
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from posthouse.client.answers import Waiting
from posthouse.client.errors import (
    BadRequest,
    Busy,
    ClientError,
    NotFound,
    TimedOut,
    Unauthorized,
    Unreachable,
    WorkerFailed,
)
from posthouse.wire.fallback import Fault
from posthouse.wire.route import TOO_MANY

RETRY_S: Final = 5.0  # after which a caller may try again, where nobody knows better
_OF_CALLER, _OF_SERVER, _OF_LIMIT = "invalid_request_error", "server_error", "rate_limit_error"
# Source: docs.anthropic.com, "Errors".
_OF_ANTHROPIC: Final = {
    400: _OF_CALLER,
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: _OF_LIMIT,
    503: "overloaded_error",
    504: "timeout_error",
}


class Refused(Exception):
    """There is no answer of a worker to pass on. `param`: the field of the body that is wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_s: float = 0.0,
        final: bool = False,
        limits: Mapping[str, str] | None = None,
        fault: Fault | None = None,
    ) -> None:
        """`retry_s`: after which it may be tried again; 0 says nothing. `final`: the official clients shall not.

        `limits`: headers that say what is left of the limits of the caller's key. `fault`: its class, for which an
        alias may name a fallback.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.fault = fault
        self._error = {"message": message, "type": _kind(status), "param": param, "code": code}
        self.headers: dict[str, str] = {**(limits or {})}
        if retry_s:
            self.headers["Retry-After"] = str(math.ceil(retry_s))
        if final:
            self.headers["X-Should-Retry"] = "false"
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def body(self, anthropic: bool = False) -> bytes:
        """The answer to a client of OpenAI's API, or of Anthropic's."""
        if anthropic:
            kind = _OF_ANTHROPIC.get(self.status, "api_error" if self.status >= 500 else _OF_CALLER)
            return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": str(self)}})
        return msgspec.json.encode({"error": self._error})

    def event(self, anthropic: bool = False) -> bytes:
        """The same as an event of a stream that has begun; the official clients raise it."""
        return _event(self.body(anthropic), anthropic)


def _event(body: bytes, anthropic: bool) -> bytes:
    return (b"event: error\n" if anthropic else b"") + b"data: " + body + b"\n\n"


def _kind(status: int) -> str:
    return _OF_SERVER if status >= 500 else _OF_LIMIT if status == 429 else _OF_CALLER


def wrong_key() -> Refused:
    return Refused(401, "invalid_api_key", "api_key: missing, wrong or revoked; send `Authorization: Bearer KEY`")


def unknown_model(model: str, there: list[str]) -> Refused:
    """`there`: what the caller's key reaches."""
    names = ", ".join(map(repr, there[:20])) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    known = f"the models for this key: {names}" if there else "this key has none"
    return Refused(404, "model_not_found", f"model: there is no model {model!r}; {known}", "model")


def unknown_response(*, goes_on: bool) -> Refused:
    """`goes_on`: another one was to go on from it."""
    text = "no worker keeps this response any more, or it was not made with this key"
    if goes_on:
        field = "previous_response_id"
        return Refused(400, "previous_response_not_found", f"{field}: {text}", field)
    return Refused(404, "response_not_found", text)


def is_put_off(waiting: Waiting, until: float) -> bool:
    """True for a request that the server has not taken in: it waits until servers know which of them has its endpoint.

    `until`: by the monotonic clock. Raises: Refused after that, and for what is beyond a limit.
    """
    limited = waiting.status.startswith(TOO_MANY)
    if not limited and time.monotonic() < until:
        return True
    status, code = (429, "rate_limit_exceeded") if limited else (503, "busy")
    text = waiting.status if waiting.retry_after_s else f"the server puts this off: {waiting.status}"
    raise Refused(status, code, text, retry_s=waiting.retry_after_s or RETRY_S, limits=waiting.limits)


def no_worker(model: str, waited_s: float, waiting: Waiting) -> Refused:
    """What the caller is told whose request has waited for so long as it may."""
    when = f"; the next is ready in about {math.ceil(waiting.ready_in_s)} s" if waiting.ready_in_s else ""
    text = f"no worker of {model!r} was free within {waited_s:.3g} s: {waiting.status}{when}"
    return Refused(503, "no_worker", text, retry_s=waiting.ready_in_s or RETRY_S, fault="no_worker")


def too_many_retries(failed: WorkerFailed) -> Refused:
    """What the caller is told of a failure after which its request is not tried again, because many others are."""
    text = f"{failed.message}; it is not tried again, because many others are"
    status, retry_s = 429 if failed.status == 429 else 503, failed.retry_after_s or RETRY_S
    return Refused(status, "too_many_retries", text, retry_s=retry_s, fault=fault_of(failed.status))


def refusal(error: ClientError) -> Refused:
    """What the caller is told of an error of the server or of the last worker that was tried."""
    text = error.message
    match error:
        case WorkerFailed():
            return _of_worker(error)
        case Unauthorized():
            return wrong_key()
        case NotFound():
            return Refused(404, "model_not_found", text, "model", fault="no_worker")
        case TimedOut():
            return Refused(504, "timeout", text, final=True, fault="failed")
        case Busy() if error.status == 429:
            return Refused(429, "rate_limit_exceeded", text, retry_s=RETRY_S)
        case Unreachable():
            return Refused(503, "unavailable", text, retry_s=RETRY_S)
        case BadRequest():
            return Refused(400, "invalid_request", text)
    return Refused(502, "bad_gateway", text)


def _of_worker(error: WorkerFailed) -> Refused:
    if not error.begun:
        status = 429 if error.status == 429 else 503
        code = "rate_limit_exceeded" if status == 429 else "unavailable"
        return Refused(
            status, code, error.message, retry_s=error.retry_after_s or RETRY_S, fault=fault_of(error.status)
        )
    # It was tried at two workers already.
    return Refused(error.status or 502, "worker_failed", error.message, final=True, fault="failed")


def fault_of(status: int | None) -> Fault:
    """The class of what a worker answers in place of working on a request."""
    return "rate_limited" if status == 429 else "failed"


class _Body(msgspec.Struct):
    error: dict[str, Any] | str


_body = msgspec.json.Decoder(_Body)


def refused_by_agent(status: int, body: bytes, opaque: bool) -> Refused | None:
    """What the agent itself says, and not its engine, which has OpenAI's shape; None if the engine does.

    `opaque`: its engine's errors may have any shape.
    """
    if opaque and status != 401:
        return None
    try:
        error = _body.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(error, dict):
        return None
    # It does not take the server's word for this caller: that is no fault of the caller's key.
    return Refused(502 if status == 401 else status, "worker_refused", f"the worker refuses: {error}")


def as_event(status: int, body: bytes, anthropic: bool = False) -> bytes:
    """A worker's refusal, as an event of a stream that has begun."""
    try:
        said = _body.decode(body)
        if isinstance(said.error, dict):
            return _event(
                msgspec.json.encode(({"type": "error"} if anthropic else {}) | {"error": said.error}), anthropic
            )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    text = body[:500].decode(errors="replace") or "no explanation"
    return Refused(status, "worker_refused", f"the worker answers {status}: {text}").event(anthropic)
