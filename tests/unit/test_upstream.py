"""Answers of other servers, in whatever pieces they come, and damaged ones."""

import asyncio
import ssl
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from posthouse.http1.reply import Lost, Reply
from posthouse.http1.upstream import Link, Origin, Upstreams

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANSWERS = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello": b"hello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX-B: 2\r\n\r\n": b"hello",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nhi": b"hi",
    b"HTTP/1.1 204 No Content\r\n\r\n": b"",
    b"HTTP/1.0 200 OK\r\n\r\nto the end": b"to the end",
}


class Wire:
    """What a connection thinks is its transport."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def told(pieces: list[bytes], poured: bool) -> tuple[int, bytes]:
    """The status and the body of what comes in these pieces, before the connection ends. Raises: Lost."""
    wire: Any = Wire()
    upstreams = Upstreams(CONTEXT, 60.0)
    link = Link(upstreams, Origin(False, "x", 1))
    link.connection_made(wire)
    reply = link.send(b"GET / HTTP/1.1\r\n\r\n", b"", False, False)
    reading = asyncio.create_task(read(reply, poured))
    for piece in pieces:
        if not wire.closed:
            link.data_received(piece)
        await asyncio.sleep(0)
    link.connection_lost(None)
    assert not upstreams.links
    async with asyncio.timeout(10):
        return reply.status, await reading


async def read(reply: Reply, poured: bool) -> bytes:
    body, writable = bytearray(await reply.begin()), asyncio.Event()
    writable.set()
    if not poured:
        return await reply.read(10_000, bytes(body))
    await reply.pour(body.extend, writable)
    return bytes(body)


def cut(text: bytes, cuts: list[float]) -> list[bytes]:
    edges = sorted({0, len(text), *(int(at * len(text)) for at in cuts)})
    return [text[a:b] for a, b in pairwise(edges)]


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.floats(0, 1), max_size=8), st.booleans())
def test_an_answer_is_the_same_however_it_is_cut(answer: bytes, cuts: list[float], poured: bool) -> None:
    status, body = asyncio.run(told(cut(answer, cuts), poured))
    assert (200 <= status < 300, body) == (True, ANSWERS[answer])


@given(st.sampled_from(sorted(ANSWERS)), st.data(), st.booleans())
def test_a_damaged_answer_is_one_or_lost_and_nothing_else(answer: bytes, data: st.DataObject, poured: bool) -> None:
    at, by = data.draw(st.integers(0, len(answer) - 1)), data.draw(st.binary(max_size=3))
    damaged = answer[:at] + by + answer[at + data.draw(st.integers(0, 3)) :]
    try:
        status, _ = asyncio.run(told(cut(damaged, data.draw(st.lists(st.floats(0, 1), max_size=4))), poured))
    except Lost:
        return
    assert status >= 200
