"""What both sides of HTTP/1.1 share: heads and their headers."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from msgspec import Struct

Headers = list[tuple[bytes, bytes]]
"""With names in lower case."""

JSON: Final = b"application/json"
"""Without a charset: a command line of this protocol refuses to read any other spelling."""
STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_BODY: Final = frozenset({204, 304})
"""Statuses of answers that have none."""
# Source: RFC 9110, 7.6.1, and RFC 2616, 13.5.1.
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that concern one connection only."""
_HOP_BY_HOP: Final = frozenset(name.encode() for name in HOP_BY_HOP)


class Answer(Struct, frozen=True, gc=False):
    """An answer in one piece."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def value_of(headers: Headers, name: bytes) -> str:
    """The first header of that name, which is in lower case; empty if there is none."""
    for found, value in headers:
        if found == name:
            return value.decode("latin-1")
    return ""


def end_to_end(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    """The headers without those in `dropped` and those that only concern one connection."""
    named = [value for name, value in headers if name == b"connection"]
    if named and named != [b"keep-alive"]:
        dropped = dropped | {name.strip().lower() for value in named for name in value.split(b",")}
    return [header for header in headers if header[0] not in dropped and header[0] not in _HOP_BY_HOP]


def head(first: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a message that begins with the line `first`. Raises: ValueError for a header of more lines."""
    lines = [first]
    lines += [b"%s: %s\r\n" % header for header in headers]
    text = b"".join(lines)
    if not text.count(b"\n") == text.count(b"\r") == len(lines) or b"\0" in text:
        raise ValueError("the value of a header is not one line")
    return text
