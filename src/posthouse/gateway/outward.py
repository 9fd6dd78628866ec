"""A request as a worker gets it: its head, and its body."""

import base64
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from posthouse import tracing
from posthouse.client.answers import Routed
from posthouse.gateway.asked import Asked
from posthouse.gateway.inward import Request
from posthouse.gateway.upload import Upload
from posthouse.http1.messages import JSON, Headers, end_to_end, head
from posthouse.wire.grant import AUTH_HEADER

REQUEST_ID: Final = b"x-request-id"
_TRACE: Final = tracing.HEADER.encode()
_AUTH: Final = AUTH_HEADER.lower().encode()
# Keys, codings that would hide what is counted, and what is said again.
_WITHHELD: Final = frozenset(
    {
        *(b"authorization", b"x-api-key", b"api-key", b"cookie", _AUTH, REQUEST_ID),
        *(b"accept-encoding", b"content-encoding", b"content-length", b"expect", b"host"),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
    }
)
_WITHOUT_BODY: Final = ("GET", "HEAD", "DELETE", "OPTIONS")  # others say that theirs is empty
_WITHHELD_OF_JSON: Final = _WITHHELD | {b"content-type"}


def as_sent(
    client: Request, asked: Asked, routed: Routed, host: bytes, prefix: bytes
) -> tuple[bytes, bytes | AsyncIterator[bytes], bool, bool]:
    """What `Upstreams.ask` is told of it."""
    first = b"%s %s%s HTTP/1.1\r\n" % (asked.method.encode(), prefix, asked.path.encode("latin-1"))
    proof = base64.b64encode(msgspec.json.encode(routed.auth_data))
    own = [(b"host", host), (_AUTH, proof), (REQUEST_ID, client.id.encode())]
    chunked, is_json = False, isinstance(asked.body, bytes)
    body: bytes | AsyncIterator[bytes] = b""
    if isinstance(asked.body, Upload):
        body, chunked = asked.body.pieces(), asked.body.size is None
        size = asked.body.size
        own.append((b"transfer-encoding", b"chunked") if size is None else (b"content-length", b"%d" % size))
    elif asked.body is not None:
        body = asked.body
        own += [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    elif asked.method not in _WITHOUT_BODY:
        own.append((b"content-length", b"0"))
    passed = _passed_on(client, is_json)
    if client.part is not None:
        own.append((_TRACE, client.part.traceparent.encode()))
        passed = [header for header in passed if header[0] != _TRACE]
    return head(first, own + passed) + b"\r\n", body, chunked, asked.method == "HEAD"


def _passed_on(client: Request, is_json: bool) -> Headers:
    """What the worker gets of the caller's headers, and where they are from."""
    found = client.head.passed_on.get(is_json)
    if found is None:
        before, remote = client.header(b"x-forwarded-for"), client.connection.address or "unknown"
        found = end_to_end(client.headers, _WITHHELD_OF_JSON if is_json else _WITHHELD)
        found += [
            (b"x-forwarded-for", (f"{before}, {remote}" if before else remote).encode("latin-1")),
            (b"x-forwarded-host", client.header(b"host").encode("latin-1")),
            (b"x-forwarded-proto", b"http"),
        ]
        client.head.passed_on[is_json] = found
    return found
