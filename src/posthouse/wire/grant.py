"""The grant: what `/route/` adds for workers that run our agent, so that one answer allows one request there.

Every other client carries it along unread, and every other worker ignores it.
"""

import json
import secrets
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

AGENT: Final = "+posthouse"
"""What the version in the reports of our agent ends in. The number before it is what chooses the signature scheme."""
BEGIN_S: Final = 120
"""Seconds within which a granted request must reach its worker, by way of a client that may queue it for a while."""

TIME_HEADER: Final = "posthouse-time"
"""Beside the server's keys: epoch seconds of the server's clock, which does not jump when its machine's is set."""

_LONGEST_S: Final = 3600.0  # no request may take more work than its worker does in this many seconds, unless announced
_DOMAIN: Final = "posthouse-grant-1"  # no other text that is ever signed begins with it

Sign = Callable[[bytes], tuple[str, str]]
"""The id of the key that signs, and the signature in base64."""


class Grant(msgspec.Struct, frozen=True):
    """Leave to send one request to one worker. The signature also covers the fields of the reply around it."""

    worker_id: int
    max_cost: Annotated[float, Meta(ge=0)]
    """The most work that the request may turn out to be."""
    exp: Annotated[int, Meta(ge=0, le=2**53)]
    """When it must have begun, in epoch seconds of the server's clock."""
    nonce: Annotated[str, Meta(max_length=64)]
    kid: Annotated[str, Meta(max_length=128)]
    """Which of the keys at `/.well-known/jwks.json` signed."""
    signature: Annotated[str, Meta(max_length=128)]
    """Ed25519, in base64."""


def issued(
    sign: Sign,
    *,
    url: str,
    worker_id: int,
    endpoint: str,
    reqnum: int,
    request_idx: int,
    cost: float,
    perf: float,
    now: float,
) -> Grant:
    """Return a new grant for the reply with these fields and a worker that does `perf` work per second."""
    grant = Grant(worker_id, max(cost, perf * _LONGEST_S), int(now) + BEGIN_S, secrets.token_urlsafe(16), "", "")
    text = granted_text(grant, url=url, endpoint=endpoint, reqnum=reqnum, request_idx=request_idx, cost=cost)
    kid, signature = sign(text)
    return msgspec.structs.replace(grant, kid=kid, signature=signature)


def granted_text(grant: Grant, *, url: str, endpoint: str, reqnum: int, request_idx: int, cost: float) -> bytes:
    """Return the bytes that are signed: a JSON array in ASCII without blanks.

    Amounts are written as floats, so that a client may re-send 256.0 as 256.
    """
    who = [_DOMAIN, url, grant.worker_id, endpoint, reqnum, request_idx]
    what = [float(cost), float(grant.max_cost), grant.exp, grant.nonce]
    return json.dumps(who + what, separators=(",", ":")).encode()
