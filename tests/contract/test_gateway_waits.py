"""What callers of a gateway are told while they wait, and how often it tries: at a server of ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from posthouse.gateway import GatewaySettings
from posthouse.gateway.learned import AFTER
from posthouse.gateway.service import run
from tests.kit.agent_world import listening
from tests.kit.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # of 3.14; 3.11 has no other
BODY = {"model": "chat", "messages": []}
HEADERS = {"Authorization": "Bearer key"}


class Server:
    """A server whose `/route/` answers `reply`, and a worker that answers `status`."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] = {}
        self.replies: list[dict[str, Any]] = []
        """Before it."""
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.worked = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.post("/route/", self.route), web.post("/v1/{path:.*}", self.work)])
        return app

    async def route(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        at = f"http://{request.host}"
        there = {"cost": 1, "reqnum": 1, "signature": "s", "url": at, "request_idx": 7}
        return web.json_response({"endpoint": "chat", **(self.replies.pop(0) if self.replies else self.reply or there)})

    async def work(self, request: web.Request) -> web.Response:
        self.worked += 1
        said = (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 40}}
            if self.status < 400
            else {"error": {"message": "no"}}
        )
        return web.json_response(said, status=self.status)


@contextlib.asynccontextmanager
async def gateway(server: Server, **settings: Any) -> AsyncIterator[str]:
    port = free_port()
    async with listening(server.app(), port):
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            run(GatewaySettings(url=f"http://127.0.0.1:{port}", listen_port=0, **settings), address.set_result)
        )
        try:
            yield f"{await address}/v1"
        finally:
            task.cancel()
            await asyncio.wait([task])


async def post(url: str, **body: Any) -> tuple[aiohttp.ClientResponse, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json=BODY | body, headers=HEADERS) as answer,
    ):
        return answer, await answer.text()


async def test_who_waits_is_told_when_a_worker_is_expected() -> None:
    server = Server()
    server.reply = {"status": "loading: 1", "request_idx": 7, "ready_in_s": 14.2}
    async with gateway(server, hold_s=0.2, keep_alive_s=0.05) as url:
        answer, text = await post(url)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "15")
        assert "loading: 1; the next is ready in about 15 s" in text
        answer, text = await post(url, stream=True)
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert ": waiting for a worker, ready in about 15 s\n\n" in text
        assert '"code":"no_worker"' in text
        server.reply = {"status": "no workers", "request_idx": 7}
        answer, text = await post(url, stream=True)
        assert text.startswith(": waiting for a worker\n\n")


async def test_a_request_outlasts_servers_that_find_out_which_of_them_has_its_endpoint() -> None:
    server = Server()
    server.replies = [{"status": "another server has this endpoint"}]
    async with gateway(server) as url:
        answer, _ = await post(url)
        assert (answer.status, len(server.asked)) == (200, 2)
        server.reply = {"status": "too many requests: this key may have 1 requests at once"}
        answer, _ = await post(url)
        assert (answer.status, len(server.asked)) == (429, 3)
    server.reply = {"status": "another server has this endpoint"}
    async with gateway(server, hold_s=0.1) as url:
        answer, text = await post(url)
        assert (answer.status, "puts this off" in text) == (503, True)


async def test_many_failures_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_AT_ONCE", 1.0), ("PER_S", 0.0)):
        monkeypatch.setattr(f"posthouse.gateway.retries.{name}", value)
    server = Server()
    server.status = 500
    async with gateway(server) as url:
        answers = [await post(url) for _ in range(5)]
    assert [answer.status for answer, _ in answers] == [500, 503, 503, 503, 503]
    assert "it is not tried again, because many others are" in answers[-1][1]
    assert answers[-1][0].headers["Retry-After"]
    assert server.worked == 2 + 4


async def test_a_request_that_states_no_work_announces_what_others_came_to() -> None:
    server = Server()
    async with gateway(server) as url:
        for _ in range(AFTER + 1):
            answer, _ = await post(url)
            assert answer.status == 200
        await post(url, max_tokens=7)
    assert [asked.get("cost") for asked in server.asked] == [None] * AFTER + [40, 7]
