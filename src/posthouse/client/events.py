"""Reads the events of a streamed answer. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec
from msgspec import Struct

MAX_EVENT_BYTES: Final = 64 * 2**20
"""Longest event that is read, unless a client says otherwise: several large images in base64 fit."""

_DONE: Final = b"[DONE]"
_JSON_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
_MARK: Final = b"\xef\xbb\xbf"  # a byte order mark


class ServerEvent(Struct, frozen=True):
    """An event that has more than its data."""

    data: Any
    event: str = ""
    """Its name."""
    id: str = ""
    """The latest id in the stream, this event's or that of one before."""
    retry_ms: int | None = None
    """What the stream last said of the pause before a new connection."""


async def events(
    content_type: str, chunks: AsyncIterator[bytes], max_event_bytes: int = MAX_EVENT_BYTES
) -> AsyncGenerator[Any, None]:
    """Yields the events of a stream: of SSE the data, of JSON lines the lines, of anything else the bytes as they come.

    An event of SSE with a name or an id is a `ServerEvent`. Data is decoded where it is JSON and text otherwise. The
    `[DONE]` at the end of OpenAI's streams is dropped.

    Raises: ValueError when an event is longer than `max_event_bytes`.
    """
    if content_type in _JSON_LINES:
        lines = _Lines(max_event_bytes)
        async for chunk in chunks:
            for line in lines.feed(chunk):
                if line.strip():
                    yield _decoded(line)
        if (line := lines.rest).strip():
            yield _decoded(line)
    elif content_type == "text/event-stream":
        lines, reader = _Lines(max_event_bytes), _Reader(max_event_bytes)
        async for chunk in chunks:
            for line in lines.feed(chunk):
                if (event := reader.feed(line)) is not None:
                    yield event if event.event or event.id else event.data
        for line in (lines.rest, b""):  # an empty line ends an event, but some servers leave out the last
            if (event := reader.feed(line)) is not None:
                yield event if event.event or event.id else event.data
    else:
        async for chunk in chunks:
            yield chunk


class _Lines:
    """Lines of a stream, which may end in CR, LF or both."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the lines that end in this chunk. Raises: ValueError."""
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        first, *lines = chunk.splitlines()
        self._parts.append(first)
        self._size += len(first)
        _check(self._size, self._max_bytes)
        if chunk[-1:] not in b"\r\n":
            if not lines:
                return []
            rest = [lines.pop()]
        else:
            rest = []
        lines.insert(0, self.rest)
        self._parts, self._size = rest, sum(map(len, rest))
        return lines

    @property
    def rest(self) -> bytes:
        """What has come of the line that has not ended."""
        line = b"".join(self._parts)
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_MARK)
        return line


class _Reader:
    """Events of a stream, from its lines."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data: list[bytes] = []
        self._size = 0
        self._event = self._id = ""
        self._retry_ms: int | None = None

    def feed(self, line: bytes) -> ServerEvent | None:
        """Returns the event that ends with this line. Raises: ValueError."""
        if not line:
            data, event = self._data, self._event
            self._data, self._size, self._event = [], 0, ""
            if not data or data == [_DONE]:
                return None
            return ServerEvent(_decoded(b"\n".join(data)), event, self._id, self._retry_ms)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(line)
            _check(self._size, self._max_bytes)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) <= 12:
            self._retry_ms = int(value)
        return None


def _check(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise ValueError(f"an event is longer than {max_bytes} bytes, the client's max_event_bytes")


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode(errors="replace")
