"""What can go wrong between a client and an endpoint, named by what the caller does next."""

import msgspec

from posthouse import errors

MAX_MESSAGE = 500  # characters of an unknown error body that a message repeats
NO_ENDPOINT = "endpoint: there is no endpoint"
"""How `/route/` begins to say so: the protocol has no status of its own for it."""
NO_ADAPTER = "adapter: no worker"
"""The same of one that holds an adapter."""
NO_WORKER = "worker: there is none"
"""The same of the one that was asked for."""


class ClientError(errors.PosthouseError):
    """Any error of the client. `status` is the HTTP status, None where there was no answer; `code` is the server's."""

    def __init__(self, message: str, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class BadRequest(ClientError, errors.BadRequest):
    """The request is wrong: correct it."""


class Unauthorized(ClientError, errors.Unauthorized):
    """The key is missing, wrong or not enough: use another."""


class NotFound(ClientError, errors.NotFound):
    """What was asked for does not exist."""


class Unreachable(ClientError):
    """The server did not answer: check its address, or try again later."""


class Busy(Unreachable):
    """The server answers that it cannot do this now: try again later."""


class TimedOut(ClientError):
    """There was no answer within `timeout_s`."""


class WorkerFailed(ClientError):
    """The worker gave no usable answer, as often as it was tried.

    `begun`: it may have worked on the request. `retry_after_s`: how long it asks to be left alone.
    """

    def __init__(
        self, message: str, status: int | None = None, code: str = "", begun: bool = True, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message, status, code)
        self.begun = begun
        self.retry_after_s = retry_after_s


def refusal(status: int, body: bytes, where: str) -> ClientError:
    """The error that an answer means; `where` it came from, empty for the server, which says itself what is wrong.

    Reads the error shapes of the wire, OpenAI and FastAPI.
    """
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        reply = body.decode(errors="replace")
    code = ""
    if isinstance(reply, dict):
        error = reply.get("error")
        if isinstance(error, dict):
            error = error.get("message")
        text = reply.get("msg") or reply.get("error_msg") or reply.get("detail") or error or reply
        if isinstance(error, str) and error != text:
            code = error
    else:
        text = reply
    if not isinstance(text, str):
        text = msgspec.json.encode(text).decode()
    message = text.strip()[:MAX_MESSAGE]
    if where or not message:
        message = f"{where or 'the server'}: {message or 'no explanation'} (HTTP {status})"
    if status in (401, 403):
        return Unauthorized(message, status, code)
    if status in (404, 410) or message.startswith((NO_ENDPOINT, NO_ADAPTER, NO_WORKER)):
        return NotFound(message, status, code)
    if status in (429, 502, 503, 504):
        return Busy(message, status, code)
    return (BadRequest if status < 500 else ClientError)(message, status, code)
