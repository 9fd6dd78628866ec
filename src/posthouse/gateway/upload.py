"""Bodies that are passed on while they come: forms with files, and whatever a path of a model takes."""

import asyncio
from collections.abc import AsyncIterator
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Final

from posthouse.gateway.errors import Refused
from posthouse.gateway.inward import Request

FORM: Final = "multipart/form-data"
MAX_PART_HEAD_BYTES: Final = 8192
MAX_VALUE_BYTES: Final = 1024
"""Of the field that is looked for."""
_CHUNK_BYTES: Final = 2**16


class Field:
    """Looks for a field of a form while the form comes. Every byte is looked at once."""

    def __init__(self, name: str, content_type: str) -> None:
        """Raises: Refused where the header states no boundary."""
        head = Message()
        head["Content-Type"] = content_type
        boundary = head.get_boundary("")
        if not 0 < len(boundary) <= 70 or not boundary.isascii():  # RFC 2046, 5.1.1
            raise Refused(400, "invalid_body", "body: its Content-Type names no boundary between the form's fields")
        self.value: str | None = None
        self.begin = self.stop = 0
        """Where it is."""
        self._name = name
        self._mark = b"\r\n--" + boundary.encode()
        self._seen = 0  # up to here there is no mark that has not been dealt with
        self._head_at = 0  # where the head of the present part begins; 0: none is being read

    def found(self, body: bytearray) -> bool:
        """Whether the field's value is known. Call it with all that has come. Raises: Refused if it cannot be found."""
        while self.value is None:
            if not self._head_at and not self._next_part(body):
                return False
            closing = body[self._head_at : self._head_at + 2]
            if closing == b"--":
                raise Refused(400, "invalid_model", f"{self._name}: is missing in the form", self._name)
            end = body.find(b"\r\n\r\n", self._head_at)
            if end < 0:
                self._bound(len(body) - self._head_at, MAX_PART_HEAD_BYTES)
                return False
            head = BytesHeaderParser().parsebytes(bytes(body[self._head_at : end]).strip() + b"\r\n\r\n")
            if head.get_param("name", header="Content-Disposition") == self._name:
                begin, stop = end + 4, body.find(self._mark, end + 4)
                self._bound((stop if stop >= 0 else len(body)) - begin, MAX_VALUE_BYTES)
                if stop < 0:
                    return False
                self.value = body[begin:stop].decode(errors="replace")
                self.begin, self.stop = begin, stop
            self._head_at, self._seen = 0, end + 2
        return True

    def _next_part(self, body: bytearray) -> bool:
        first = self._mark[2:]
        if not self._seen and body.startswith(first):
            at = len(first)
        else:
            mark = body.find(self._mark, self._seen)
            if mark < 0:
                self._seen = max(self._seen, len(body) - len(self._mark))
                return False
            at = mark + len(self._mark)
        if len(body) < at + 2:
            return False
        self._head_at = at
        return True

    def _bound(self, size: int, most: int) -> None:
        if size > most:
            raise Refused(
                400, "invalid_body", f"body: a field of the form is not as forms are, or {self._name} too long"
            )


class Upload:
    """A body that is still coming. What has come is kept, so that it can be sent to another worker."""

    def __init__(
        self, client: Request, begun: bytes, max_bytes: int, stall_s: float, field: Field | None = None
    ) -> None:
        """`field`: the one that names the model; it is in `begun`."""
        client.streams = True
        self.model: str | None = None
        """What that is to say in place of what it says."""
        self.refused: Refused | None = None
        """What was wrong with the rest of it."""
        self._field = field
        self._client = client
        self._kept = bytearray(begun)
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._reading = asyncio.Lock()

    @property
    def size(self) -> int | None:
        """In bytes; None where the client does not say."""
        length = self._client.length
        if length is None or self.model is None or self._field is None:
            return length
        return length + len(self.model.encode()) - (self._field.stop - self._field.begin)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it from its beginning, as it comes. Raises: Refused, which is kept, too."""
        at = 0
        if self.model is not None and self._field is not None:
            yield bytes(self._kept[: self._field.begin]) + self.model.encode()
            at = self._field.stop
        while True:
            if at == len(self._kept) and not await self._more(at):
                return
            piece = bytes(self._kept[at : at + _CHUNK_BYTES])
            at += len(piece)
            yield piece

    async def _more(self, at: int) -> bool:
        """Read on, unless more than `at` bytes are there already. Returns whether they are."""
        async with self._reading:
            if at == len(self._kept):
                try:
                    async with asyncio.timeout(self._stall_s):
                        self._kept += await self._client.read()
                except TimeoutError:
                    self.refused = Refused(408, "request_too_slow", f"body: nothing of it came for {self._stall_s:g} s")
                    raise self.refused from None
            if len(self._kept) > self._max_bytes:
                self.refused = Refused(413, "request_too_large", f"body: must be at most {self._max_bytes} bytes")
                raise self.refused
            return len(self._kept) > at
