"""A client's permission to use this worker: where it is in a request, and whether it is valid."""

import base64
import binascii
import codecs
import hmac
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw
from msgspec.structs import replace

from posthouse.agent.server import Server
from posthouse.agent.settings import AgentSettings
from posthouse.signing.rsa import Verify
from posthouse.wire.grant import AUTH_HEADER, BEGIN_S, Grant, genuine, grant_key, read
from posthouse.wire.signed import Scheme, signed_text

_AUTH_KEYS: Final = ("signature", "cost", "endpoint", "reqnum", "url", "request_idx", "__request_id", "grant")
_MAX_USED: Final = 200_000  # grants remembered at once: some 1,500 requests a second, in 40 MB
_MAX_PATHS: Final = 2  # that one grant may be used for, once each
_STEP_S: Final = 10.0  # by which the server's clock, as seen here, may step back without a used grant being forgotten


class AuthData(msgspec.Struct, frozen=True):
    """What `/route/` answered and the client brings along."""

    signature: Annotated[str, Meta(max_length=2048)]  # base64 characters; a key of 8192 bits makes 1368
    cost: float
    endpoint: Annotated[str, Meta(max_length=1024)]
    reqnum: int
    url: Annotated[str, Meta(max_length=2048)]
    # The wire does not sign it. One that the server refuses would hold up the reports of all others.
    request_idx: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    grant: Any = None
    """Where servers of version 0.1 put the grant. To go after 0.2: today it is the signature."""


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
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        fields = _fields.decode(body)
        if "auth_data" not in fields:
            auth_data = _read(body)
            for key in _AUTH_KEYS:
                fields.pop(key, None)
            return auth_data, msgspec.json.encode(fields), None
        wrapped = _wrapped.decode(body)
        auth_data = _read(wrapped.auth_data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"body: must be a JSON object with the auth data that /route/ answered: {error}") from None
    return auth_data, bytes(wrapped.payload), wrapped.session_id


def session_call(body: bytes) -> tuple[str, AuthData | None]:
    """Return the id of the session that a call is about, and what shows that it is its client's. Raises: BadBody."""
    try:
        call = _session_call.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"body: must be a JSON object with session_id and session_auth: {error}") from None
    return call.session_id, call.session_auth


def from_header(value: str) -> AuthData:
    """Return the auth data in the auth header, or of the same name in the query. Raises: BadBody."""
    try:
        text = value.replace(" ", "+").replace("-", "+").replace("_", "/").rstrip("=")  # for addresses or not
        return _read(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:  # a MsgspecError is a ValueError
        raise BadBody(f"{AUTH_HEADER}: must be base64 of the JSON that /route/ answered: {error}") from None


def _read(raw: bytes | Raw) -> AuthData:
    """Return the auth data; where its client left the index out, with that of its grant. Raises: MsgspecError."""
    auth_data = _auth_data.decode(raw)
    if auth_data.request_idx is None and (grant := read(auth_data.signature)):
        return replace(auth_data, request_idx=grant.request_idx)
    return auth_data


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

    def __init__(self, server: Server, settings: AgentSettings) -> None:
        self._server = server
        self._worker_id = settings.worker_id
        self._url = settings.url
        self._key = grant_key(settings.mtoken) if settings.mtoken else None
        self._used: dict[bytes, tuple[int, list[str]]] = {}
        """When each grant expires, by its MAC, and the paths it was used for, in the order of their first use."""

    def find(self, auth_data: AuthData) -> Grant | None:
        """Return the grant in auth data, not yet verified; None if there is none, or nothing to verify it with."""
        if self._key is None:
            return None
        beside = auth_data.grant
        return read(auth_data.signature) or (read(beside) if isinstance(beside, str) else None)

    async def use(self, grant: Grant, auth_data: AuthData, path: str, up: bool = False) -> None:
        """Use the grant in the auth data for the path; if `up`, for this one alone. Raises: BadGrant."""
        if grant.worker_id != self._worker_id:
            raise BadGrant("signature: is a grant for another worker")
        if auth_data.url != self._url:
            raise BadGrant("url: is not this worker's")
        if self._key is None or not genuine(
            self._key,
            grant,
            url=auth_data.url,
            endpoint=auth_data.endpoint,
            reqnum=auth_data.reqnum,
            request_idx=auth_data.request_idx or 0,
            cost=auth_data.cost,
        ):
            raise BadGrant("signature: its grant does not verify; something beside it was altered")
        if grant.exp <= self._server.now():
            await self._server.set_clock()
        now = self._server.now()
        if grant.exp <= now:
            raise BadGrant("signature: its grant has expired; ask /route/ again", stale=True)
        if grant.exp - BEGIN_S < int(self._server.began_at):  # what was used before this agent began is not known
            raise BadGrant("signature: its grant is from before this worker began; ask /route/ again", stale=True)
        self._forget(now - _STEP_S)
        if grant.mac not in self._used and len(self._used) >= _MAX_USED:
            raise BadGrant("signature: too many grants were used in the last minutes; ask /route/ again", stale=True)
        _, paths = self._used.setdefault(grant.mac, (grant.exp, []))
        if path in paths or len(paths) >= _MAX_PATHS or (up and paths):
            raise BadGrant("signature: its grant was used before")
        paths.extend([path] * (_MAX_PATHS if up else 1))

    def _forget(self, before: float) -> None:
        """Drop grants from the front that expired by then. Behind one that expires late others stay a little longer."""
        while self._used and next(iter(self._used.values()))[0] <= before:
            del self._used[next(iter(self._used))]
