"""The agent faces the internet: what it bounds before a proof and after, and which forms of requests it passes on."""

import asyncio
import base64
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.signing.rsa import RsaKey
from tests.kit.agent_world import World, a_world, until


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("posthouse.agent.report._GAP_S", 0.02)
    async with a_world(key, tmp_path) as world:
        yield world


Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connections(world: World, count: int, *sent: bytes) -> AsyncIterator[list[Pair]]:
    """Connections that send this and no more."""
    pairs: list[Pair] = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.writelines(sent)
            pairs.append((reader, writer))
        yield pairs
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def is_closed(pair: Pair) -> bool:
    """Whether the worker closes the connection, before long."""
    try:
        async with asyncio.timeout(120):
            while await pair[0].read(1000):
                pass
    except ConnectionError:
        return True
    return True


async def served(world: World) -> bool:
    async with world.client.post(world.url + "/generate", json=world.wrapped({})) as answer:
        return answer.status == 200


HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, HEAD + b"Content-Length: 5000\r\n\r\n{", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
    ids=["nothing", "half a head", "half a body", "half a chunk"],
)
async def test_who_sends_no_whole_request_is_closed(world: World, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.gate._HEAD_S", 0.3)
    monkeypatch.setattr("posthouse.gate._BODY_S", 0.3)
    async with world.agent(), connections(world, 1, sent) as (pair,):
        assert await is_closed(pair)


async def test_a_head_of_many_lines_is_bounded_in_all(world: World) -> None:
    async with world.agent(), connections(world, 1, HEAD) as ((reader, writer),):
        with contextlib.suppress(ConnectionError):
            for number in range(100):
                writer.write(b"X-%d: %s\r\n" % (number, b"x" * 8000))
                await writer.drain()
                await asyncio.sleep(0.01)
        assert await is_closed((reader, writer))


async def test_silent_connections_of_one_address_take_no_place_from_others(world: World) -> None:
    async with world.agent(max_connections=16), connections(world, 40) as pairs:
        assert await served(world)
        assert await is_closed(pairs[0])


async def test_who_has_shown_a_proof_keeps_its_place(world: World) -> None:
    async with (
        world.agent(max_connections=16),
        world.client.post(world.url + "/stream", json=world.wrapped({})) as answer,
        connections(world, 40),
    ):
        for number in range(3):
            assert await answer.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
            world.model.go_on.release()


async def test_bodies_without_a_proof_are_bounded_in_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.places.MAX_UNPROVEN_BYTES_EACH", 1_000_000)
    sent = HEAD + b"Content-Length: 900000\r\n\r\n", b"x" * 400_000
    async with world.agent(max_body_bytes=1_000_000), connections(world, 5, *sent) as pairs:
        closed = [asyncio.create_task(is_closed(pair)) for pair in pairs]
        done, _ = await asyncio.wait(closed, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert await served(world)
        await until(lambda: sum(task.done() for task in closed) == 3)
        for task in closed:
            task.cancel()


async def test_a_small_body_that_is_a_large_one_is_not_unpacked_before_its_proof(world: World) -> None:
    async def post(body: bytes, coding: str = "gzip", **headers: str) -> tuple[int, Any]:
        told = {"Content-Encoding": coding, **headers}
        async with world.client.post(world.url + "/echo", data=body, headers=told) as answer:
            return answer.status, await answer.json()

    bomb = gzip.compress(b"x" * 20_000_000)
    async with world.agent():
        assert (await post(bomb))[0] == 413
        assert (await post(b"x", "br"))[0] == 413
        assert (await post(b"x"))[0] == 422
        small = json.dumps(world.wrapped({"a": "b"})).encode()
        assert json.loads((await post(gzip.compress(small)))[1]["body"]) == {"a": "b"}
        assert len((await post(bomb, **world.header()))[1]["body"]) == 20_000_000  # it is the model that unpacks it


async def test_a_client_that_stops_reading_frees_its_slot(world: World) -> None:
    world.model.answers = {"X-Large": "x"}
    body = json.dumps(world.wrapped({"a": "x" * 20_000_000})).encode()
    async with world.agent(parallel=1, stall_s=0.3):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", world.port))
        await loop.sock_sendall(
            sock, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert await served(world)
        sock.close()
        await until(lambda: {end["status"] for end in world.control.ended} == {"Cancelled", "Success"})


async def test_a_client_that_stops_sending_is_told_so(world: World) -> None:
    (name, value), *_ = world.header().items()
    sent = HEAD + f"{name}: {value}\r\nContent-Length: 5000\r\n\r\nx".encode()
    async with world.agent(stall_s=0.3), connections(world, 1, sent) as ((reader, _),):
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 20)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("place", ["header", "query"])
async def test_every_method_passes_with_a_proof(world: World, method: str, place: str) -> None:
    header = world.header()
    query = "?a=1" if place == "header" else f"?a=1&x-posthouse-auth={header.pop('X-Posthouse-Auth')}"
    async with world.agent():
        url = world.url + "/echo" + query.replace("+", "%2B")
        async with world.client.request(method, url, headers=header) as answer:
            assert answer.status == 200
            seen = json.loads(await answer.text() or "{}") or {"method": method, "query": "a=1", "headers": {}}
        assert (seen["method"], seen["query"]) == (method, "a=1")
        assert "X-Posthouse-Auth" not in seen["headers"]
        async with world.client.request(method, world.url + "/echo") as answer:
            assert answer.status == 401


async def test_a_proof_may_be_spelled_for_addresses(world: World) -> None:
    auth_data = world.auth_data(endpoint="~~~???")
    text = base64.urlsafe_b64encode(json.dumps(auth_data).encode()).decode().rstrip("=")
    async with world.agent(), world.client.get(f"{world.url}/echo?X-Posthouse-Auth={text}") as answer:
        assert answer.status == 200


async def test_a_page_in_a_browser_may_call_where_its_origin_is_allowed(world: World) -> None:
    page = {"Origin": "https://app.example"}
    asks = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-posthouse-auth"}
    world.model.answers = {"Access-Control-Allow-Origin": "http://127.0.0.1:1"}
    async with world.agent(cors_origins=("https://app.example",)):
        async with world.client.options(world.url + "/echo", headers=asks) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert answer.headers["Access-Control-Allow-Headers"] == "x-posthouse-auth"
        async with world.client.get(world.url + "/echo", headers=world.header() | page) as answer:
            assert answer.headers.getall("Access-Control-Allow-Origin") == ["https://app.example"]
        async with world.client.get(world.url + "/echo", headers=page) as answer:  # it may read why not
            assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (401, True)
        async with world.client.options(
            world.url + "/echo", headers=asks | {"Origin": "https://evil.example"}
        ) as answer:
            assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (401, False)


async def test_a_websocket_passes_in_both_directions(world: World) -> None:
    url = f"{world.url}/ws?x-posthouse-auth={world.header()['X-Posthouse-Auth'].replace('+', '%2B')}"
    async with world.agent():
        async with world.client.ws_connect(url, protocols=("other", "chat")) as ws:
            assert ws.protocol == "chat"
            await ws.send_str("grüße")
            assert (await ws.receive()).data == "echo grüße"
            await ws.send_bytes(b"\x00\x01")
            assert (await ws.receive()).data == b"\x00\x01"
            assert world.control.statuses[-1]["num_requests_working"] >= 0
            await ws.send_str("close")
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 4001
        async with world.client.ws_connect(world.url + "/ws", headers=world.header()) as ws:
            await ws.close(code=4002)
        await until(lambda: world.model.closed_with == 4002)
        await until(lambda: [end["status"] for end in world.control.ended] == ["Success", "Success"])
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await world.client.ws_connect(world.url + "/ws")
        assert refused.value.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await world.client.ws_connect(world.url + "/status/404", headers=world.header())
        assert refused.value.status == 405


async def test_the_model_server_knows_the_address_that_clients_use_and_its_own_is_not_told(world: World) -> None:
    world.model.answers = {
        "Location": f"{world.model.url}/a?b=1",
        "Content-Location": f"http://localhost:{world.model.port}/c",
        "Refresh": f"5; url={world.model.url}/d",
        "Set-Cookie": "k=v; Domain=127.0.0.1; Path=/",
    }
    headers = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    async with world.agent(url="https://tunnel.example/w/7", listen_host="127.0.0.1"):
        told = world.header(url="https://tunnel.example/w/7") | headers
        async with world.client.get(world.url + "/echo", headers=told, allow_redirects=False) as answer:
            seen = (await answer.json())["headers"]
        assert answer.headers["Location"] == "https://tunnel.example/w/7/a?b=1"
        assert answer.headers["Content-Location"] == "https://tunnel.example/w/7/c"
        assert answer.headers["Refresh"] == "5; url=https://tunnel.example/w/7/d"
        assert answer.headers["Set-Cookie"] == "k=v; Path=/w/7/"
    assert seen["X-Forwarded-For"] == "203.0.113.7, 127.0.0.1"
    assert (seen["X-Forwarded-Proto"], seen["X-Forwarded-Prefix"]) == ("https", "/w/7")
    assert seen["X-Forwarded-Host"] == f"127.0.0.1:{world.port}"
    assert seen["Forwarded"] == f'for=203.0.113.7, for="127.0.0.1";host="127.0.0.1:{world.port}";proto=https'


@pytest.mark.parametrize("location", ["https://elsewhere.example/x", "/relative", "http://127.0.0.1:1/another"])
async def test_an_address_of_others_passes_as_it_is(world: World, location: str) -> None:
    world.model.answers = {"Location": location}
    async with world.agent(), world.client.get(world.url + "/echo", headers=world.header()) as answer:
        assert answer.headers["Location"] == location


async def test_long_heads_pass_in_both_directions(world: World) -> None:
    world.model.answers = {"X-Long": "y" * 12_000}

    async def ask(length: int) -> tuple[int, int]:
        headers = world.header() | {"X-Cookie": "c" * length}
        async with world.client.get(world.url + "/echo", headers=headers, max_field_size=20_000) as answer:
            return answer.status, len(answer.headers.get("X-Long", ""))

    async with world.agent():
        assert await ask(15_000) == (200, 12_000)
        assert await ask(20_000) == (431, 0)  # for this model server that is too long
