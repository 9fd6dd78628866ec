"""A client's permission to use this worker: what it is, where it stands in a request, whether it is good."""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from posthouse.agent.keys import ServerKeys
from posthouse.wire.grant import BEGIN_S, Grant, granted_text
from posthouse.wire.signed import Scheme, signed_text

AUTH_HEADER: Final = "X-Posthouse-Auth"
"""Carries the answer of `/route/`, as base64 of JSON, beside a body that is not JSON."""

_AUTH_KEYS: Final = ("signature", "cost", "endpoint", "reqnum", "url", "request_idx", "__request_id", "grant")
_MAX_USED: Final = 200_000  # grants remembered at once: some 1,500 requests a second, in 40 MB
_MAX_PATHS: Final = 2  # that one grant may be used for, once each
_STEP_S: Final = 10.0  # by which the server's clock, as seen here, may step back without a used grant being forgotten

Verify = Callable[[bytes, str], bool]


class AuthData(msgspec.Struct, frozen=True):
    """What `/route/` answered and the client brings along."""

    signature: Annotated[str, Meta(max_length=2048)]  # base64 characters; a key of 8192 bits makes 1368
    cost: float
    endpoint: Annotated[str, Meta(max_length=1024)]
    reqnum: int
    url: Annotated[str, Meta(max_length=2048)]
    # The wire does not sign it. One that the server refuses would hold up the reports of all others.
    request_idx: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    grant: Grant | None = None


class BadBody(ValueError):
    """The body or its auth data has the wrong form; the text says what and where."""


class BadGrant(Exception):
    """The grant is not good; the text says why. `stale`: another one for the same request may be."""

    def __init__(self, reason: str, stale: bool = False) -> None:
        super().__init__(reason)
        self.stale = stale


class _Wrapped(msgspec.Struct):
    auth_data: Raw
    payload: Raw
    session_id: str | None = None


class _SessionCall(msgspec.Struct):
    session_id: str
    session_auth: AuthData | None = None


_fields = msgspec.json.Decoder(dict[str, Raw])
_wrapped = msgspec.json.Decoder(_Wrapped)
_session_call = msgspec.json.Decoder(_SessionCall, strict=False)
_auth_data = msgspec.json.Decoder(AuthData, strict=False)  # peers of all ages send numbers as strings, too


def split(body: bytes) -> tuple[AuthData, bytes, str | None]:
    """Return the auth data in a JSON body, the JSON that is meant for the model, each value of it untouched, and the id
    of the session that the request is in.

    Two shapes: the auth keys beside the model's own fields, or `{"auth_data": {...}, "payload": {...}}`; sessions are
    only in the second.

    Raises: BadBody.
    """
    try:
        fields = _fields.decode(body)
        if "auth_data" not in fields:
            auth_data = _auth_data.decode(body)
            for key in _AUTH_KEYS:
                fields.pop(key, None)
            return auth_data, msgspec.json.encode(fields), None
        wrapped = _wrapped.decode(body)
        auth_data = _auth_data.decode(wrapped.auth_data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"body: must be a JSON object with the auth data that /route/ answered: {error}") from None
    return auth_data, bytes(wrapped.payload), wrapped.session_id


def session_call(body: bytes) -> tuple[str, AuthData | None]:
    """Return the id of the session that a call is about, and what shows that it is its client's. Raises: BadBody."""
    try:
        call = _session_call.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"body: must be a JSON object with session_id and session_auth: {error}") from None
    return call.session_id, call.session_auth


def from_header(value: str) -> AuthData:
    """Return the auth data in the auth header. Raises: BadBody."""
    try:
        return _auth_data.decode(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:  # a MsgspecError is a ValueError
        raise BadBody(f"{AUTH_HEADER}: must be base64 of the JSON that /route/ answered: {error}") from None


def signature_check(url: str) -> Callable[[Verify, AuthData], bool]:
    """Return a function that tells whether auth data was signed by the key's owner for the worker at `url`."""
    text = signed_text(Scheme.U, cost=0, endpoint="", reqnum=0, request_idx=0, url=url)

    def genuine(verify: Verify, auth_data: AuthData) -> bool:
        same_url = hmac.compare_digest(auth_data.url.encode(errors="replace"), url.encode())
        return same_url and verify(text, auth_data.signature)

    return genuine


class Grants:
    """The grants that this worker has seen. Each is good for one request to a path, and for two paths at most.

    Two, because the published example sends one answer of /route/ to `/generate` and to `/generate_stream`.
    """

    def __init__(self, keys: ServerKeys, worker_id: int) -> None:
        self._keys = keys
        self._worker_id = worker_id
        self._used: dict[str, tuple[int, list[str]]] = {}
        """When each nonce's grant expires, and the paths it was used for, in the order of their first use."""

    async def use(self, auth_data: AuthData, path: str, up: bool = False) -> Grant:
        """Return the grant in the auth data, which from now on is used for the path; if `up`, for this one alone.

        Raises: BadGrant.
        """
        grant = auth_data.grant
        if grant is None:
            raise BadGrant("grant: is missing; pass on all of what /route/ answered")
        if grant.worker_id != self._worker_id:
            raise BadGrant("grant.worker_id: is of another worker")
        verify = await self._keys.find(grant.kid)
        if verify is None:
            raise BadGrant("grant.kid: is not among the server's keys, as far as they are known here", stale=True)
        text = granted_text(
            grant,
            url=auth_data.url,
            endpoint=auth_data.endpoint,
            reqnum=auth_data.reqnum,
            request_idx=auth_data.request_idx or 0,
            cost=auth_data.cost,
        )
        if not verify(text, grant.signature):
            raise BadGrant("grant.signature: does not verify; something beside it was altered")
        if grant.exp <= self._keys.now():
            await self._keys.set_clock()
        now = self._keys.now()
        if grant.exp <= now:
            raise BadGrant("grant.exp: is past; ask /route/ again", stale=True)
        if grant.exp - BEGIN_S < int(self._keys.began_at):  # what was used before this agent began is not known
            raise BadGrant("grant.exp: is from before this worker began; ask /route/ again", stale=True)
        self._forget(now - _STEP_S)
        if grant.nonce not in self._used and len(self._used) >= _MAX_USED:
            raise BadGrant("grant: too many were used of late; ask /route/ again", stale=True)
        _, paths = self._used.setdefault(grant.nonce, (grant.exp, []))
        if path in paths or len(paths) >= _MAX_PATHS or (up and paths):
            raise BadGrant("grant.nonce: was used before")
        paths.extend([path] * (_MAX_PATHS if up else 1))
        return grant

    def _forget(self, before: float) -> None:
        """Drop nonces from the front that expired by then. Behind one that expires late others stay a little longer."""
        while self._used and next(iter(self._used.values()))[0] <= before:
            del self._used[next(iter(self._used))]
