"""HTTP as it is met in the field, at the agent: clients and model servers that are old, odd or hasty."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from posthouse.signing.rsa import RsaKey
from tests.kit.agent_world import World, a_world

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWERS = {
    "of HTTP/1.0, to its end": (
        b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
        200,
        b"data: 1\n\n",
    ),
    "after hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, 200, b"ok"),
    "after a 100 that nobody asked for": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
    "without a reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
    "of a status that nobody knows": (b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok", 299, b"ok"),
    "with a trailer": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        200,
        b"ok",
    ),
    "with names in Latin-1 and UTF-8": (
        b'HTTP/1.1 200 OK\r\nX-Name: gr\xf6\xdfe\r\nContent-Disposition: attachment; filename="\xc3\xbc.png"\r\n'
        b"Content-Length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
    "before the body has come": (
        b"HTTP/1.1 413 Too Big\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
        413,
        b"too large",
    ),
    "that is none": (b"", 502, b'{"error":"the model server broke off before its answer"}'),
}
"""What a model server says, and what the client must be given."""


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(key, tmp_path) as world:
        yield world


@asynccontextmanager
async def model_server(answers: list[bytes], host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A model server that answers a call of `/3` with these bytes, whatever the body, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            number = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].strip(b"/")
            answer = answers[int(number)] if number.isdigit() else OK
            writer.write(answer)
            await writer.drain()
            if b"Connection: close" in answer:  # it reads no more of the body
                await asyncio.sleep(0.3)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the agent left
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_an_answer_is_passed_on_however_a_model_server_gives_it(world: World) -> None:
    def call(number: int, status: int, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=60)
        connection.request("POST", f"/{number}", b"x" * (2_000_000 if status == 413 else 1), headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    async with (
        model_server([said for said, _, _ in ANSWERS.values()]) as port,
        world.agent(upstream=f"http://127.0.0.1:{port}"),
    ):
        for number, (what, (_, status, body)) in enumerate(ANSWERS.items()):
            assert await asyncio.to_thread(call, number, status, world.header()) == (status, body), what


async def test_a_model_server_may_listen_on_ipv6_alone(world: World) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with (
        model_server([OK], "::1") as port,
        world.agent(upstream=f"http://[::1]:{port}"),
        world.client.post(f"{world.url}/0", json=world.wrapped({})) as answer,
    ):
        assert (answer.status, await answer.read()) == (200, b"ok")


async def test_a_request_is_read_however_a_client_writes_it(world: World) -> None:
    def raw(*lines: str, target: str = "/generate", version: str = "1.1", before: bytes = b"") -> bytes:
        body = before + json.dumps(world.wrapped({"a": 1})).encode()
        told = [f"POST {target} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *lines]
        return "\r\n".join([*told, "", ""]).encode() + body

    def talk(sent: bytes, answers: int) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", world.port), timeout=60) as connection:
            connection.sendall(sent)
            got = b""
            while got.count(b"HTTP/1.") < answers and (piece := connection.recv(65536)):
                got += piece
        return [part.split()[1] for part in got.split(b"HTTP/1.")[1:]]

    h2c = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    cases = {
        "two at once": (raw() + raw(), [b"200", b"200"]),
        "with a whole address": (raw(target=f"{world.url}/generate"), [b"200"]),
        "after an empty line": (b"\r\n" + raw(), [b"200"]),
        "with an offer of HTTP/2": (raw(*h2c), [b"200"]),
        "of HTTP/1.0": (raw(version="1.0"), [b"200"]),
        "with a byte order mark": (raw(before=b"\xef\xbb\xbf"), [b"200"]),
        "with a length and chunks": (raw("Transfer-Encoding: chunked"), [b"400"]),
        "with two lengths": (raw("Content-Length: 5"), [b"400"]),
        "of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [b"400"]),
    }
    async with world.agent():
        for what, (sent, statuses) in cases.items():
            answered = await asyncio.to_thread(talk, sent, len(statuses))
            assert answered == statuses, what
