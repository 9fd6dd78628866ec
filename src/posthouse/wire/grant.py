"""The grant: what `/route/` puts into `signature` for a worker that runs our agent, good for one request there.

It is a MAC under a key that the server and this one worker derive from the worker's token. Clients pass `signature` on
as they pass any other, and no other worker is sent a grant.
"""

import base64
import hashlib
import hmac
from binascii import b2a_base64
from functools import lru_cache
from struct import Struct, error
from typing import Final, NamedTuple

AGENT: Final = "+posthouse"
"""What the version in the reports of our agent ends in. The number before it is what chooses the signature scheme."""
BEGIN_S: Final = 120
"""Seconds within which a granted request must reach its worker, by way of a client that may queue it for a while."""

AUTH_HEADER: Final = "X-Posthouse-Auth"
"""Carries the answer of `/route/`, as base64 of JSON, where it is not in a JSON body: in the header of this name, or in
the query for what cannot set headers, WebSockets of browsers above all."""

TIME_HEADER: Final = "posthouse-time"
"""Beside the server's public key: epoch seconds of the server's clock, which does not jump when its machine's is set.

Only a server that gives grants sends it.
"""

_WORK_S: Final = 3600.0  # no request may take more work than its worker does in this many seconds, unless announced
_FORM: Final = 2  # the first byte of a grant; form 1 was a field of its own, signed with Ed25519
_MAC_BYTES: Final = 28  # with the fields a multiple of 3
_KEY_FOR: Final = b"posthouse grant key"  # nothing else is ever derived from a worker's token with it
_USE: Final = b"posthouse-grant"
_KEYS_KEPT: Final = 20_000

_fields: Final = Struct(">BQdIQ")  # form, worker id, most work, end, request_idx; the MAC follows
_covered: Final = Struct(f"{_fields.format}qdI")  # by the MAC: reqnum, cost, length of the url; url and endpoint follow
_CHARACTERS: Final = (_fields.size + _MAC_BYTES) // 3 * 4  # of base64, without padding: one spelling for each grant


class Grant(NamedTuple):
    """Leave to send one request to one worker."""

    worker_id: int
    max_cost: float
    """The most work that the request may turn out to be."""
    exp: int
    """When it must have begun, in epoch seconds of the server's clock."""
    request_idx: int
    """As in the reply: clients of before October 2025 pass on what they know, and do not know it."""
    mac: bytes
    """Covers the fields above and those of the reply around it. No two grants have the same."""


def grant_key(token: str) -> bytes:
    """Return the key for the grants of the worker with this token. Raises: ValueError when there is no token."""
    if not token:
        raise ValueError("a worker without a token has no key for grants: everybody could derive it")
    return hmac.digest(token.encode(), _KEY_FOR, "sha256")


def issued(
    key: bytes,
    *,
    url: str,
    worker_id: int,
    endpoint: str,
    reqnum: int,
    request_idx: int,
    cost: float,
    perf: float,
    now: float,
) -> str:
    """Return a new grant, in base64, for the reply with these fields and a worker that does `perf` work per second."""
    work = perf * _WORK_S
    most, exp = cost if cost > work else work, int(now) + BEGIN_S
    grant = _grant(key, worker_id, most, exp, request_idx, reqnum, cost, url, endpoint)
    return b2a_base64(grant, newline=False).decode()


def read(text: str) -> Grant | None:
    """Return the grant that `text` spells, not yet verified; None when it spells none."""
    if len(text) != _CHARACTERS:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:  # also for text that is not ASCII
        return None
    form, worker_id, max_cost, exp, request_idx = _fields.unpack_from(raw)
    return Grant(worker_id, max_cost, exp, request_idx, raw[_fields.size :]) if form == _FORM else None


def genuine(key: bytes, grant: Grant, *, url: str, endpoint: str, reqnum: int, request_idx: int, cost: float) -> bool:
    """Return whether the owner of the key issued the grant for a reply with these fields."""
    try:
        own = _grant(key, *grant[:-1], reqnum, cost, url, endpoint)
    except error:  # a number that no reply has
        return False
    return request_idx == grant.request_idx and hmac.compare_digest(own[_fields.size :], grant.mac)


@lru_cache(_KEYS_KEPT)
def _keyed(key: bytes) -> "hashlib.blake2b":
    """Return the hash that has taken in the key alone: half of the work of a MAC."""
    return hashlib.blake2b(key=key, person=_USE, digest_size=_MAC_BYTES)


def _grant(
    key: bytes, worker_id: int, most: float, exp: int, idx: int, reqnum: int, cost: float, url: str, endpoint: str
) -> bytes:
    """Keyed BLAKE2b: a third of the time of HMAC-SHA-256. The length of the url leaves one way to read the text."""
    address = url.encode()
    text = _covered.pack(_FORM, worker_id, most, exp, idx, reqnum, cost, len(address)) + address + endpoint.encode()
    mac = _keyed(key).copy()
    mac.update(text)
    return text[: _fields.size] + mac.digest()
