"""How a gateway passes requests to a worker and answers back, byte by byte: at a worker that says whatever it likes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from posthouse.gateway import GatewaySettings
from posthouse.gateway.application import PASSED
from posthouse.gateway.service import run
from posthouse.http1.reply import MAX_BUFFERED

Worker = Callable[[bytes, bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Is given the head of a request and its body, which it reads on where it is chunked."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"so "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = {"model": "chat", "messages": []}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Place:
    """A server whose `/route/` names one worker, which is at the same address; and a gateway before it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.connections = 0
        self.heads: list[bytes] = []
        """Of what came to the worker."""
        self.left = asyncio.Event()
        """A connection of the worker has been closed by the gateway."""
        self.gateway = 0
        self.serving: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())  # type: ignore[arg-type]
        counted = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                if head.startswith(b"POST /route/"):
                    port = writer.get_extra_info("sockname")[1]
                    there = {"cost": 1, "reqnum": 1, "signature": "s", "url": f"http://127.0.0.1:{port}"}
                    said = json.dumps({"endpoint": "chat", "request_idx": 7, **there}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
                    continue
                self.connections += not counted
                counted = True
                self.heads.append(head)
                await self.worker(head, body, reader, writer)
                if writer.is_closing():
                    break
        if counted:
            self.left.set()
        await closed(writer)

    async def call(self, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway)
        for part in parts:
            writer.write(part)
            await writer.drain()
        return reader, writer

    async def answer(self, *parts: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the answer; the connection ends with it."""
        reader, writer = await self.call(*parts)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        await closed(writer)
        return head, body


@contextlib.asynccontextmanager
async def place(worker: Worker, **settings: Any) -> AsyncIterator[Place]:
    made = Place(worker)
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(GatewaySettings(url=url, listen_port=0, **settings), address.set_result))
    try:
        made.gateway = int((await address).rpartition(":")[2])
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task, *made.serving])
        listener.close()


def post(body: Any = CHAT, path: str = "/v1/chat/completions", last: bool = True, more: bytes = b"") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer key\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + (b"Connection: close\r\n" if last else b"") + more + b"\r\n" + content


def saying(*pieces: bytes, close: bool = False) -> Worker:
    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if close:
            writer.close()

    return worker


@pytest.mark.parametrize(
    ("answer", "close", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"{", b"}"], False, b"{}"),
        (
            [CHUNKED + chunk(b"{"), chunk(b"}") + b"0\r\nX: trailer\r\n\r\n"],
            False,
            b"{}",
        ),
        ([b"HTTP/1.0 200 OK\r\n\r\n", b"{}"], True, b"{}"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], False, b"{}"),
        ([b"HTTP/1.1 20", b"0 OK\r\nConte", b"nt-Length: 2\r\n\r", b"\n{}"], False, b"{}"),
        ([b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"], False, b""),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False, b""),
    ],
)
async def test_an_answer_is_read_however_it_is_framed(answer: list[bytes], close: bool, body: bytes) -> None:
    async with place(saying(*answer, close=close)) as here:
        for _ in range(2):
            head, said = await here.answer(post())
            assert head.startswith(b"HTTP/1.1 2"), head
            assert b"trailer" not in head + said
            if b"chunked" in head:
                said = b"".join(said.split(b"\r\n")[1:-2:2])
            assert said == body
    assert here.connections == (2 if close else 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 900_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_tried_once_more_and_told(answer: bytes) -> None:
    async with place(saying(answer, close=True)) as here:
        head, said = await here.answer(post())
    assert head.startswith(b"HTTP/1.1 502"), head
    assert json.loads(said)["error"]["code"] == "worker_failed"
    assert len(here.heads) == 2


async def test_a_call_that_an_engine_does_not_have_is_not_tried_elsewhere() -> None:
    said_there = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 8\r\n\r\nno such."
    async with place(saying(said_there)) as here:
        head, said = await here.answer(post())
    assert head.startswith(b"HTTP/1.1 501"), head
    assert said == b"no such."
    assert len(here.heads) == 1


@pytest.mark.parametrize("rest", [b"", b"zz\r\n"])
async def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(rest: bytes) -> None:
    torn = CHUNKED + chunk(b"{") + rest
    async with place(saying(torn, close=True)) as here:
        head, said = await here.answer(post())
    assert head.startswith(b"HTTP/1.1 200")
    assert not said.endswith(b"0\r\n\r\n")


async def test_a_stream_that_breaks_off_ends_with_an_error() -> None:
    async with place(saying(STREAM + chunk(EVENT) + chunk(EVENT[:9]), close=True)) as here:
        _, said = await here.answer(post(CHAT | {"stream": True}))
    assert said.startswith(chunk(EVENT))
    assert b'"code":"worker_failed"' in said
    assert said.endswith(b"0\r\n\r\n")


async def test_events_pass_one_by_one_and_the_connection_is_used_again() -> None:
    go = asyncio.Event()

    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert json.loads(body)["stream_options"] == {"include_usage": True}
        writer.write(STREAM + chunk(EVENT))
        await go.wait()
        writer.write(chunk(DONE) + b"0\r\n\r\n")

    async with place(worker) as here:
        for _ in range(3):
            go.clear()
            reader, writer = await here.call(post(CHAT | {"stream": True}, last=False))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-type: text/event-stream\r\n" in head
            assert await reader.readuntil(chunk(EVENT)) == chunk(EVENT)
            go.set()
            assert await reader.readuntil(b"0\r\n\r\n") == chunk(DONE) + b"0\r\n\r\n"
            await closed(writer)
    assert here.connections == 1


async def test_requests_on_one_connection_are_answered_in_turn() -> None:
    async with place(saying(ANSWER)) as here:
        head, rest = await here.answer(post(last=False) * 3 + post())
    assert (head + rest).count(b"HTTP/1.1 200") == 4
    assert b"connection: close" not in head


@pytest.mark.parametrize("begun", [False, True])
async def test_a_caller_that_leaves_ends_the_worker_s_connection(begun: bool) -> None:
    asked = asyncio.Event()

    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if begun:
            writer.write(STREAM + chunk(EVENT))
        asked.set()
        await reader.readexactly(1)

    async with place(worker) as here:
        reader, writer = await here.call(post(CHAT | {"stream": True}))
        await asked.wait()
        if begun:
            await reader.readuntil(EVENT)
        await closed(writer)
        await asyncio.wait_for(here.left.wait(), 20)


async def test_a_caller_that_leaves_is_left_on_every_route() -> None:
    asked = asyncio.Event()

    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.readexactly(1)

    async with place(worker) as here:
        for path in (*PASSED, "/v1/x/chat/any/path"):
            asked.clear()
            here.left.clear()
            _, writer = await here.call(post(path=path))
            await asyncio.wait_for(asked.wait(), 20)
            await closed(writer)
            await asyncio.wait_for(here.left.wait(), 20)
        assert len(here.heads) == len(PASSED) + 1


async def test_a_caller_that_takes_nothing_holds_the_worker_back_and_gets_all() -> None:
    size, sent, piece = 300 * MAX_BUFFERED, 0, bytes(MAX_BUFFERED)

    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with place(worker) as here:
        reader, writer = await here.call(post())
        head = await reader.readuntil(b"\r\n\r\n")
        before = -1
        while before != sent:  # until nothing more is taken
            before = sent
            await asyncio.sleep(0.2)
        assert b"content-length: %d\r\n" % size in head
        assert sent < size
        assert len(await reader.readexactly(size)) == size
        await closed(writer)


async def test_a_caller_that_takes_nothing_for_long_is_left() -> None:
    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while not writer.is_closing():
            writer.write(chunk(bytes(MAX_BUFFERED)))
            await writer.drain()

    async with place(worker, stall_s=0.1) as here:
        _, writer = await here.call(post())
        await asyncio.wait_for(here.left.wait(), 20)
        await closed(writer)


async def test_a_worker_that_says_nothing_is_left() -> None:
    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)

    async with place(worker, silence_s=0.1) as here:
        head, said = await here.answer(post())
    assert head.startswith(b"HTTP/1.1 502")
    assert b"nothing came for 0.1 s" in said


async def test_a_worker_that_ends_a_kept_connection_as_it_is_used_is_asked_again() -> None:
    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(here.heads) == 2:
            writer.close()
        else:
            writer.write(ANSWER)

    async with place(worker) as here:
        for _ in range(2):
            head, _ = await here.answer(post())
            assert head.startswith(b"HTTP/1.1 200")
    assert (len(here.heads), here.connections) == (3, 2)


async def test_what_a_worker_says_unasked_is_no_answer_to_the_next() -> None:
    async with place(saying(ANSWER + ANSWER.replace(b"{}", b"[]"))) as here:
        for _ in range(3):
            assert (await here.answer(post()))[1] == b"{}"


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_upload_is_passed_on_while_it_comes(chunked: bool) -> None:
    came = asyncio.Event()
    seen = bytearray()

    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(body)
        while chunked and not seen.endswith(b"0\r\n\r\n"):
            seen.extend(await reader.read(1000))
            came.set()
        writer.write(ANSWER)

    head = b"PUT /v1/x/chat/a?b=%20 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 10\r\n\r\n"
    async with place(worker) as here:
        reader, writer = await here.call(head + (chunk(b"12345") if chunked else b"12345"))
        if chunked:
            await came.wait()
        writer.write(chunk(b"67890") + b"0\r\n\r\n" if chunked else b"67890")
        assert (await reader.read()).endswith(b"{}")
        await closed(writer)
    [told] = here.heads
    assert told.startswith(b"PUT /a?b=%20 HTTP/1.1\r\n")
    assert seen == (chunk(b"12345") + chunk(b"67890") + b"0\r\n\r\n" if chunked else b"1234567890")


async def test_an_upload_that_is_too_large_is_told() -> None:
    async def worker(head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(2**16):
            pass

    head = b"PUT /v1/x/chat/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nConnection: close\r\n"
    async with place(worker, max_body_bytes=100_000) as here:
        head, said = await here.answer(head + b"Transfer-Encoding: chunked\r\n\r\n", chunk(bytes(60_000)) * 2)
    assert head.startswith(b"HTTP/1.1 413")
    assert b"must be at most 100000 bytes" in said


async def test_head_has_no_body() -> None:
    async with place(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Mine: 1\r\n\r\n")) as here:
        request = b"HEAD /v1/x/chat/a HTTP/1.1\r\nHost: x\r\nX-Api-Key: key\r\nConnection: close\r\n\r\n"
        for _ in range(2):
            head, said = await here.answer(request)
            assert (b"content-length: 7\r\n" in head, b"x-mine: 1" in head, said) == (True, True, b"")


async def test_headers_of_one_connection_and_keys_stay_there() -> None:
    odd = b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nCookie: a\r\nX-End: 2\r\n"
    odd += b"X-Forwarded-For: 10.0.0.1\r\n"
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a\r\nKeep-Alive: 5\r\nX-Back: 3\r\n\r\n{}"
    async with place(saying(said)) as here:
        reader, writer = await here.call(post(last=False, more=odd))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await closed(writer)
    [told] = here.heads
    names = {line.partition(b":")[0].lower() for line in told.split(b"\r\n")[1:-2]}
    assert not names & {b"x-hop", b"te", b"cookie", b"authorization", b"connection"}
    assert b"x-end" in names
    assert b"x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n" in told
    assert b"x-forwarded-host: gateway\r\n" in told
    assert b"x-back: 3\r\n" in head
    assert b"set-cookie" not in head
    assert b"keep-alive" not in head


async def test_a_caller_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with place(saying(ANSWER)) as here:
        whole = post(more=b"Expect: 100-continue\r\n")
        head, _, body = whole.partition(b"\r\n\r\n")
        reader, writer = await here.call(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).endswith(b"{}")
        await closed(writer)
