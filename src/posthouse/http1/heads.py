"""The head of a request that is like the last one's on its connection, as clients send them: it needs no parser."""

import re
from typing import Any, Final

MAX_LENGTH_DIGITS: Final = 7
_LENGTH: Final = re.compile(rb"(?i)(?<=\r\ncontent-length: )(\d{1,%d})(?=\r\n)" % MAX_LENGTH_DIGITS)


class KnownHead:
    """A head that the parser has read, of a request whose body came in one piece with it."""

    __slots__ = ("_after", "_before", "_head", "_size", "request")

    def __init__(self, request: Any, head: bytes, before: bytes, after: bytes, size: int) -> None:
        self.request = request
        """What the parser made of it."""
        self._head, self._before, self._after, self._size = head, before, after, size

    @classmethod
    def of(cls, data: bytes, request: Any, body: bytes) -> "KnownHead | None":
        """That of `data`, of which the parser made this request with that body. None where the next may differ in more
        than the length: this is more or less than one request, or does not say its length once and plainly."""
        head, end, rest = data.partition(b"\r\n\r\n")
        parts = _LENGTH.split(head + end)
        plain = rest == body and len(parts) == 3
        return cls(request, head + end, parts[0], parts[2], len(data)) if plain else None

    def body_of(self, data: bytes) -> bytes | None:
        """The body of a request with this head, but for the length of the body; None if it is not all of one."""
        if len(data) == self._size and data.startswith(self._head):
            return data[len(self._head) :]
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r", len(self._before), len(self._before) + MAX_LENGTH_DIGITS + 1)
        length, body = data[len(self._before) : end], data[end + len(self._after) :]
        if not (length.isdigit() and data.startswith(self._after, end) and len(body) == int(length)):
            return None
        self._head, self._size = data[: -len(body)] if body else data, len(data)
        return body
