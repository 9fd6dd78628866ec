"""Reads the events of a streamed answer."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

MAX_EVENT_BYTES = 4 * 2**20  # an image in base64 fits
DONE = b"[DONE]"

JSON_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")


async def events(content_type: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """Yields the events of a stream: of SSE the data, of JSON lines the lines, of anything else the bytes as they come.

    Data is decoded where it is JSON and text otherwise. The `[DONE]` at the end of OpenAI's streams is dropped.

    Raises: ValueError when an event is longer than `MAX_EVENT_BYTES`.
    """
    if content_type in JSON_LINES:
        async with aclosing(_lines(chunks)) as lines:
            async for line in lines:
                if line.strip():
                    yield _decoded(line)
    elif content_type == "text/event-stream":
        async with aclosing(_lines(chunks)) as lines:
            data, size = [], 0
            async for line in lines:
                name, _, value = line.partition(b":")
                if name == b"data":
                    data.append(value.removeprefix(b" "))
                    size += len(line)
                    _check(size)
                elif not line and data:
                    if data != [DONE]:
                        yield _decoded(b"\n".join(data))
                    data, size = [], 0
            # An empty line ends an event, but some servers leave out the last.
            if data and data != [DONE]:
                yield _decoded(b"\n".join(data))
    else:
        async for chunk in chunks:
            yield chunk


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        _check(len(rest))
    if rest:
        yield rest.removesuffix(b"\r")


def _check(length: int) -> None:
    if length > MAX_EVENT_BYTES:
        raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode(errors="replace")
