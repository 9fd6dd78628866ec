"""A gateway before several servers: where one gives no answer another is asked, and that stays the first."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from posthouse.client.errors import BadRequest, Unreachable
from posthouse.gateway.server import Server

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def server(name: str, dies: list[bool]) -> AsyncIterator[str]:
    """The address of a server that says its name; while the last of `dies` is true it closes what it has read."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            assert b"Bearer key" in head
            if dies[-1]:
                break
            body = b'{"name":"%s"}' % name.encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            try:
                await answer(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        tasks.add(asyncio.get_running_loop().create_task(run()))

    tasks = set[asyncio.Task[None]]()
    listener = await asyncio.start_server(ended, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    await asyncio.gather(*tasks)


def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


async def test_where_one_gives_no_answer_another_is_asked_and_stays_the_first() -> None:
    a_dies, b_dies = [False], [False]
    async with server("a", a_dies) as a, server("b", b_dies) as b:
        gateway = Server(f"{nowhere()}, {a},{b}", None, 10.0)
        asked = gateway.with_key("key")
        assert await asked.reply("GET", "/x") == {"name": "a"}
        assert gateway.urls[0] == a
        a_dies.append(True)
        assert await asked.reply("POST", "/route/", {}) == {"name": "b"}
        assert gateway.urls[0] == b
        a_dies.append(False)
        assert await asked.reply("GET", "/x") == {"name": "b"}
        assert len(gateway.urls) == 3
        await gateway.close()


async def test_each_that_gives_no_answer_is_named() -> None:
    urls = nowhere(), nowhere()
    gateway = Server(",".join(urls), None, 10.0)
    with pytest.raises(Unreachable) as found:
        await gateway.with_key("key").reply("GET", "/x")
    assert all(f"{url} did not answer" in str(found.value) for url in urls)
    await gateway.close()


async def test_each_must_be_an_address() -> None:
    with pytest.raises(BadRequest, match="'b:1'"):
        Server("http://a,b:1", None, 10.0)
