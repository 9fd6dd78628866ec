"""Errors as HTTP has them: the one place that maps them to statuses and words."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from posthouse.errors import (
    BadRequest,
    Busy,
    NotFound,
    PosthouseError,
    PreconditionFailed,
    Refused,
    StaleVersion,
    TooMany,
    Unauthorized,
    Unavailable,
)

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


class TooLarge(BadRequest):
    """The body is longer than is read."""


class Problem(NamedTuple):
    """The body of an error, as callers get it."""

    status: int
    code: str
    """For programs."""
    text: str
    """For people."""
    headers: Mapping[str, str] = {}


_BY_KIND: Final[tuple[tuple[type[PosthouseError], int, str], ...]] = (
    # The first that fits counts: a kind stands before the kind that it is one of.
    (TooLarge, 413, "too_large"),
    (BadRequest, 400, "invalid_args"),
    (Forbidden, 403, "forbidden"),
    (Unauthorized, 401, "unauthorized"),
    (NotFound, 404, "not_found"),
    (TooMany, 429, "rate_limit_exceeded"),
    (Unavailable, 503, "unavailable"),
    (Busy, 503, "busy"),
    (PreconditionFailed, 412, "precondition_failed"),
    (StaleVersion, 409, "conflict"),
    (Refused, 409, "conflict"),
)


def problem(error: Exception, path: str = "") -> Problem | None:
    """The answer to a caller of `path` for an error that was raised on purpose; None for any other."""
    for kind, status, code in _BY_KIND:
        if isinstance(error, kind):
            headers: dict[str, str] = {}
            if kind is NotFound and path.startswith("/api/v0/"):
                code = NOT_FOUND_CODES.get(path.split("/")[3], code)
            if kind is Unauthorized:
                headers["WWW-Authenticate"] = "Bearer"
            if isinstance(error, Busy):
                headers["Retry-After"] = str(error.retry_after_whole_s)
            return Problem(status, code, str(error), headers)
    return None


def web_body(found: Problem) -> bytes:
    """The protocol's shape of an error of the management API: its command line shows `msg`."""
    return msgspec.json.encode({"success": False, "error": found.code, "msg": found.text})
