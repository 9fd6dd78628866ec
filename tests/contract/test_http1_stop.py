"""A server and a gateway that stop: what has come is answered, and what still comes on kept connections."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from posthouse.gateway.inward import Inward, Request
from posthouse.http1 import server as http1
from posthouse.server.asgi import Message, Receive, Send
from posthouse.server.fastpath import FastPath
from posthouse.server.http import HttpServer

ASKED = b"GET /alive HTTP/1.1\r\nHost: x\r\n\r\n"
LONG_S = 3600.0


class _NoFastPath:
    """Everything goes to the application."""

    def find(self, *_: Any) -> None:
        return None

    def knows(self, *_: Any) -> bool:
        return True


async def _application(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"good"})


async def _answer(request: Request) -> None:
    request.answer(200, b"good", [])


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def last(self, sent: bytes = b"") -> bytes:
        """What is said until the connection ends, after this has been sent."""
        self.writer.write(sent)
        return await self.reader.read()


@asynccontextmanager
async def _callers(kind: str) -> AsyncIterator[tuple[http1.HttpServer, list[Caller]]]:
    """A server, and connections: one that is kept after an answer, one in the middle of a request, one without any."""
    async with _listening(kind) as (server, listener):
        kept, begun, silent = [Caller(*await asyncio.open_connection(*listener.getsockname()[:2])) for _ in range(3)]
        kept.writer.write(ASKED)
        said = await kept.reader.readuntil(b"good")
        assert b"connection: close" not in said
        begun.writer.write(ASKED[:9])
        while len(server.connections) < 3 or not any(connection._in_head for connection in server.connections):
            await asyncio.sleep(0.01)
        yield server, [kept, begun, silent]
        for caller in (kept, begun, silent):
            caller.writer.close()


@asynccontextmanager
async def _listening(kind: str) -> AsyncIterator[tuple[http1.HttpServer, socket.socket]]:
    server = (
        Inward(_answer, 100, 0, 0.0) if kind == "gateway" else HttpServer(cast(FastPath, _NoFastPath()), _application)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.start(listener)
        yield server, listener


def _is_last(said: bytes) -> bool:
    head, _, body = said.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 OK\r\n") and b"connection: close" in head and body == b"good"


@pytest.mark.parametrize("kind", ["server", "gateway"])
async def test_who_calls_while_it_stops_is_answered_and_told_to_close(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "KEPT_S", LONG_S)
    async with _callers(kind) as (server, (kept, begun, silent)):
        stopping = asyncio.create_task(server.close(LONG_S))
        while not server.parting:
            await asyncio.sleep(0)
        assert _is_last(await kept.last(ASKED))
        assert _is_last(await begun.last(ASKED[9:]))
        assert _is_last(await silent.last(ASKED))
        await stopping


@pytest.mark.parametrize("kind", ["server", "gateway"])
async def test_idle_connections_end_before_a_request_that_is_still_coming(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "KEPT_S", 0.0)
    async with _callers(kind) as (server, (kept, begun, silent)):
        stopping = asyncio.create_task(server.close(LONG_S))
        assert await kept.last() == b""
        assert await silent.last() == b""
        assert not stopping.done()
        assert _is_last(await begun.last(ASKED[9:]))
        await stopping


@pytest.mark.parametrize("kind", ["server", "gateway"])
async def test_what_has_come_is_read_before_its_connection_counts_as_idle(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "KEPT_S", 0.0)
    async with _callers(kind) as (server, (kept, begun, _)):
        stopping = asyncio.create_task(server.close(LONG_S))
        assert _is_last(await kept.last(ASKED))
        assert _is_last(await begun.last(ASKED[9:]))
        await stopping


@pytest.mark.parametrize("kind", ["server", "gateway"])
async def test_who_is_accepted_in_the_moment_in_which_it_is_told_to_stop_is_answered(kind: str) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    ours, its = socket.socketpair()
    async with _listening(kind) as (server, listener):
        with ours, its:
            loop.add_reader(its, told.set)
            ours.send(b"x")
            connection = socket.create_connection(listener.getsockname())
            connection.send(ASKED)
            await told.wait()
            loop.remove_reader(its)
            stopping = asyncio.create_task(server.close(LONG_S))
            caller = Caller(*await asyncio.open_connection(sock=connection))
            assert _is_last(await caller.last())
            caller.writer.close()
            await stopping
