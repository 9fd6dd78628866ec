"""A client's permission to use this worker: what it is, where it stands in a request, whether it is genuine."""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from posthouse.wire.signed import Scheme, signed_text

AUTH_HEADER: Final = "X-Posthouse-Auth"
"""Carries the answer of `/route/`, as base64 of JSON, beside a body that is not JSON."""

_AUTH_KEYS: Final = ("signature", "cost", "endpoint", "reqnum", "url", "request_idx", "__request_id")

Verify = Callable[[bytes, str], bool]


class Grant(msgspec.Struct, frozen=True):
    """What `/route/` answered and the client brings along."""

    signature: Annotated[str, Meta(max_length=2048)]  # base64 characters; a key of 8192 bits makes 1368
    cost: float
    endpoint: Annotated[str, Meta(max_length=1024)]
    reqnum: int
    url: Annotated[str, Meta(max_length=2048)]
    # It is not signed. One that the server refuses would hold up the reports of all others.
    request_idx: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class BadBody(ValueError):
    """The body or its auth data has the wrong form; the text says what and where."""


class NoSuchSession(Exception):
    """The request belongs to a session; this worker has none."""


class _Wrapped(msgspec.Struct):
    auth_data: Raw
    payload: Raw
    session_id: str | None = None


_fields = msgspec.json.Decoder(dict[str, Raw])
_wrapped = msgspec.json.Decoder(_Wrapped)
_grant = msgspec.json.Decoder(Grant, strict=False)  # peers of all ages send numbers as strings, too


def split(body: bytes) -> tuple[Grant, bytes]:
    """Return the grant in a JSON body, and the JSON that is meant for the model, each value of it untouched.

    Two shapes: the auth keys beside the model's own fields, or `{"auth_data": {...}, "payload": {...}}`.

    Raises: BadBody, NoSuchSession.
    """
    try:
        fields = _fields.decode(body)
        if "auth_data" not in fields:
            grant = _grant.decode(body)
            for key in _AUTH_KEYS:
                fields.pop(key, None)
            return grant, msgspec.json.encode(fields)
        wrapped = _wrapped.decode(body)
        grant = _grant.decode(wrapped.auth_data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"body: must be a JSON object with the auth data that /route/ answered: {error}") from None
    if wrapped.session_id is not None:
        raise NoSuchSession
    return grant, bytes(wrapped.payload)


def from_header(value: str) -> Grant:
    """Return the grant in the auth header. Raises: BadBody."""
    try:
        return _grant.decode(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:  # a MsgspecError is a ValueError
        raise BadBody(f"{AUTH_HEADER}: must be base64 of the JSON that /route/ answered: {error}") from None


def grant_check(url: str) -> Callable[[Verify, Grant], bool]:
    """Return a function that tells whether a grant was signed by the key's owner for the worker at `url`."""
    text = signed_text(Scheme.U, cost=0, endpoint="", reqnum=0, request_idx=0, url=url)

    def genuine(verify: Verify, grant: Grant) -> bool:
        same_url = hmac.compare_digest(grant.url.encode(errors="replace"), url.encode())
        return same_url and verify(text, grant.signature)

    return genuine
