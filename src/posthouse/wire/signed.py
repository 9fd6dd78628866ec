"""The exact bytes that a worker verifies, one scheme for each generation of workers.

The peers sign the text of Python's `json.dumps(..., indent=4)`, so a blank or the `.0` of a float is part of
what is signed. The worker builds the text again from what the client sent.
"""

import json
import math
import re
from enum import StrEnum
from functools import lru_cache
from typing import Final


class Scheme(StrEnum):
    """Which fields are signed, and in which order. A worker accepts exactly one."""

    A4 = "A4"  # workers until 2025-10-07, which report no version
    A5 = "A5"  # workers of 2025-10-08 to 10-28, which report no version but `working_request_idxs`
    A5S = "A5S"  # workers of version 0.1 to 1.0: the fields of A5, sorted
    U = "U"  # workers from version 1.1 on: the address alone


_EXACT_INTEGERS: Final = 2**53  # below it, every integer is a float and every JSON reader keeps it

_TWINS: Final[dict[str, str]] = {Scheme.A5: Scheme.A5S, Scheme.A5S: Scheme.A5}

_quoted: Final = json.encoder.encode_basestring_ascii

_VERSION: Final = re.compile(r"(\d+)(?:\.(\d+))?", re.ASCII)
_VERSION_CHARACTERS: Final = 64  # as much as is read of one; the text comes from a worker


def signed_text(scheme: str, *, cost: int | float, endpoint: str, reqnum: int, request_idx: int, url: str) -> bytes:
    """Return the bytes that `scheme` signs.

    `cost` is signed as the token it is (256 and 256.0 differ): pass what `wire_cost` returned, and put the
    same value into the reply.

    Raises: ValueError when `cost` is not finite, KeyError when there is no such scheme.
    """
    if not -math.inf < cost < math.inf:
        raise ValueError(f"cost: must be a finite number, not {cost}")
    # `json` with `indent` leaves its quick encoder; and JSON's form of integers and finite floats is Python's own.
    address = f'"url": {_quoted(url)}'
    if scheme == Scheme.U:
        return f"{{\n    {address}\n}}".encode()
    common = f'{{\n    "cost": {cost},\n    "endpoint": {_quoted(endpoint)},\n    "reqnum": {reqnum},\n    '
    if scheme == Scheme.A5S:
        return f'{common}"request_idx": {request_idx},\n    {address}\n}}'.encode()
    if scheme == Scheme.A5:
        return f'{common}{address},\n    "request_idx": {request_idx}\n}}'.encode()
    if scheme == Scheme.A4:
        return f"{common}{address}\n}}".encode()
    raise KeyError(scheme)


def wire_cost(cost: float) -> int | float:
    """Return `cost` as the number to sign and to send: an integer wherever that is exact.

    JavaScript re-sends 256.0 as 256, which a worker would refuse had 256.0 been signed; 256 survives everywhere.

    Raises: ValueError when `cost` is not finite.
    """
    if -_EXACT_INTEGERS < cost < _EXACT_INTEGERS:
        whole = int(cost)
        return whole if whole == cost else cost
    if not math.isfinite(cost):
        raise ValueError(f"cost: must be a finite number, not {cost}")
    return cost


@lru_cache(1000)
def scheme_for(version: str | None, has_working_request_idxs: bool) -> Scheme:
    """Return the scheme that a worker verifies, by its last status report.

    Version 0.1.0 was reported by workers of both A5 and A5S; the second were far longer in use. See `other_scheme`.
    """
    match = _VERSION.match(version[:_VERSION_CHARACTERS]) if version else None
    if match is None:
        return Scheme.A5 if has_working_request_idxs else Scheme.A4
    return Scheme.U if (int(match[1]), int(match[2] or 0)) >= (1, 1) else Scheme.A5S


def other_scheme(scheme: str) -> str:
    """Return the scheme of the workers whose reports look the same as those of this one; else `scheme` itself."""
    return _TWINS.get(scheme, scheme)
