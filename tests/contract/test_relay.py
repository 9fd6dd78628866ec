"""The relay, used by the smallest gateway that could be: it picks a model server by the `model` that a client asks for.

What the agent does with the relay is in `test_agent`.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from posthouse.relay import Ending, Failure, Relay, forwarded, relay_session
from tests.kit.agent_world import Model, listening, until
from tests.kit.ports import free_port

MAX_BODY_BYTES = 100_000
SILENCE_S = 0.5
WORDS: dict[Failure, tuple[int, str]] = {
    "too large": (413, "request_too_large"),
    "too slow": (408, "request_too_slow"),
    "unreachable": (502, "model_unavailable"),
    "broke off": (502, "model_failed"),
    "silent": (504, "model_timeout"),
}


class GatewayError(Exception):
    """What a client of the gateway is told of a failure."""


@dataclass
class Gateway:
    """A second user of the relay, with other words and other headers than the agent's."""

    models: dict[str, str]
    endings: list[Ending] = field(default_factory=list)

    def app(self, session: aiohttp.ClientSession) -> web.Application:
        self.relay = Relay(
            session, MAX_BODY_BYTES, lambda failure: GatewayError(*WORDS[failure]), withheld=frozenset({"x-key"})
        )
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{model}/{path:.*}", self.serve)
        return app

    async def serve(self, client: web.Request) -> web.StreamResponse:
        url = URL(self.models[client.match_info["model"]]) / client.match_info["path"]
        try:
            response, ending = await self.relay.forward(client, url, headers=forwarded(client))
        except GatewayError as error:
            status, code = error.args
            return web.json_response({"error": {"code": code}}, status=status)
        self.endings.append(ending)
        return response


@dataclass
class World:
    model: Model
    gateway: Gateway
    url: str
    client: aiohttp.ClientSession


@pytest.fixture
async def world() -> AsyncIterator[World]:
    model, port = Model(), free_port()
    gateway = Gateway({"horse": model.url, "nobody": f"http://127.0.0.1:{free_port()}"})
    async with (
        relay_session(SILENCE_S) as session,
        listening(model.app(), model.port),
        listening(gateway.app(session), port, auto_decompress=False),
        aiohttp.ClientSession() as client,
    ):
        yield World(model, gateway, f"http://127.0.0.1:{port}", client)


async def test_a_request_and_its_answer_pass_through(world: World) -> None:
    body = bytes(range(256)) * 100
    async with world.client.post(f"{world.url}/horse/generate", data=body, headers={"X-Trace": "t1"}) as answer:
        assert (answer.status, await answer.json()) == (200, {"generated_text": "so it was"})
        assert (answer.headers["X-Model"], answer.cookies["seen"].value) == ("horse", "this client")
    assert world.model.bodies == [body]
    (seen,) = world.model.seen
    assert (seen.headers["X-Trace"], seen.headers["Content-Length"]) == ("t1", str(len(body)))
    assert world.gateway.endings == ["complete"]


async def test_a_request_without_a_body_passes_with_its_method(world: World) -> None:
    async with world.client.get(f"{world.url}/horse/health") as answer:
        assert (answer.status, answer.method) == (200, "GET")
    world.model.healthy = False
    async with world.client.get(f"{world.url}/horse/health") as answer:
        assert answer.status == 503
    async with world.client.post(f"{world.url}/horse/generate") as answer:
        assert answer.status == 200
    assert world.model.bodies == [b""]


async def test_headers_of_one_connection_and_keys_stay_behind_and_who_asked_is_told(world: World) -> None:
    headers = {
        "Connection": "close, X-Hop",
        "X-Hop": "1",
        "TE": "trailers",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "secret",
        "X-Key": "secret",
        "X-Forwarded-For": "203.0.113.7",
        "X-Stays": "1",
    }
    async with world.client.post(f"{world.url}/horse/generate", json={}, headers=headers) as answer:
        assert answer.status == 200
    seen = world.model.seen[0].headers
    assert not {"X-Hop", "TE", "Keep-Alive", "Proxy-Authorization", "X-Key"} & set(seen)
    assert "secret" not in str(seen)
    assert seen["X-Stays"] == "1"
    assert seen["X-Forwarded-For"] == "203.0.113.7, 127.0.0.1"
    assert seen["X-Forwarded-Host"] == world.url.removeprefix("http://")
    assert seen["X-Forwarded-Proto"] == "http"
    assert seen["Host"] == world.model.url.removeprefix("http://")


async def test_a_compressed_body_passes_as_it_is(world: World) -> None:
    body = json.dumps({"inputs": "x" * 1000}).encode()
    headers = {"Content-Encoding": "gzip"}
    async with world.client.post(f"{world.url}/horse/generate", data=gzip.compress(body), headers=headers) as answer:
        assert answer.status == 200
    assert world.model.bodies == [body]  # which the model server has unpacked
    seen = world.model.seen[0].headers
    assert (seen["Content-Encoding"], int(seen["Content-Length"])) == ("gzip", len(gzip.compress(body)))


async def test_no_cookie_of_one_client_is_sent_with_the_request_of_another(world: World) -> None:
    for _ in range(2):
        async with aiohttp.ClientSession() as client, client.post(f"{world.url}/horse/generate", json={}) as answer:
            assert "seen" in answer.cookies
    assert "Cookie" not in world.model.seen[1].headers


async def test_an_answer_streams_through_as_it_is_made(world: World) -> None:
    async with world.client.post(f"{world.url}/horse/stream", json={}) as answer:
        for number in range(3):
            # The model makes the next piece only after this one has arrived here.
            assert await answer.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
            world.model.go_on.release()
        assert await answer.content.read() == b""
    assert world.gateway.endings == ["complete"]


async def test_a_client_that_leaves_ends_the_request_at_the_model_server(world: World) -> None:
    async with world.client.post(f"{world.url}/horse/stream", json={}) as answer:
        await answer.content.readuntil(b"\n\n")
    await until(lambda: world.model.cancelled == 1)
    with pytest.raises(TimeoutError):
        await world.client.post(f"{world.url}/horse/hold", json={}, timeout=aiohttp.ClientTimeout(total=0.2))
    await until(lambda: world.model.cancelled == 2)
    assert "complete" not in world.gateway.endings


@pytest.mark.parametrize("told", [True, False], ids=["by its head", "piece by piece"])
async def test_a_body_that_is_too_large_is_refused_in_the_gateway_s_words(world: World, told: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    data = b"x" * (MAX_BODY_BYTES + 1) if told else pieces()
    async with world.client.post(f"{world.url}/horse/generate", data=data) as answer:
        assert (answer.status, await answer.json()) == (413, {"error": {"code": "request_too_large"}})
    async with world.client.post(f"{world.url}/horse/generate", data=b"x" * MAX_BODY_BYTES) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "status", "code"), [("nobody/x", 502, "model_unavailable"), ("horse/hold", 504, "model_timeout")]
)
async def test_a_model_server_without_an_answer_is_told_in_the_gateway_s_words(
    world: World, path: str, status: int, code: str
) -> None:
    async with world.client.post(f"{world.url}/{path}", json={}) as answer:
        assert (answer.status, await answer.json()) == (status, {"error": {"code": code}})


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(world: World) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        async with world.client.post(f"{world.url}/horse/broken", json={}) as answer:
            await answer.read()
    assert world.gateway.endings == ["broken"]


async def test_a_redirect_is_passed_on_and_not_followed(world: World) -> None:
    world.model.redirects_to = f"{world.model.url}/generate"
    async with world.client.post(f"{world.url}/horse/redirect", json={}, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (307, world.model.redirects_to)
    assert [seen.path for seen in world.model.seen] == ["/redirect"]


async def test_many_clients_at_once_get_their_own_answers(world: World) -> None:
    async def ask(number: int) -> int:
        async with world.client.post(f"{world.url}/horse/hold", json={"number": number}) as answer:
            return int((await answer.json())["number"])

    calls = [asyncio.create_task(ask(number)) for number in range(30)]
    await until(lambda: world.model.working == 30)
    for _ in calls:
        world.model.go_on.release()
    assert await asyncio.gather(*calls) == list(range(30))
