"""What a gateway spends at servers of others, where an alias falls back on one."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from posthouse.errors import BadRequest
from posthouse.gateway import GatewaySettings
from posthouse.gateway.counted import Usage
from posthouse.gateway.externals import Externals
from posthouse.gateway.service import run
from posthouse.wire import spent
from tests.kit.agent_world import listening, until
from tests.kit.ports import free_port

SECRET = "sk-of-the-owner"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
TABLE = """
[other]
url = "http://127.0.0.1:{port}/v1"
model = "their-model"
key_env = "OTHER_KEY"
usd_per_million_input = 10
usd_per_million_output = 100
max_usd_day = {cap}
max_output_tokens = 200
"""


class Servers:
    """Ours, at which no worker is ever free, and the other one."""

    def __init__(self, folder: Path, cap: float = 1.0) -> None:
        self.port, self.folder, self.status = free_port(), folder, 200
        self.asked: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.hangs = False
        self.file = folder / "externals.toml"
        self.file.write_text(TABLE.format(port=self.port, cap=cap))

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/route/", self.route),
                web.get("/v1/aliases", self.aliases),
                web.get("/v1/endpoints", self.endpoints),
                web.post("/v1/{path:chat/completions|embeddings}", self.answer),
            ]
        )
        return app

    async def route(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["endpoint"] != "chat":
            return web.json_response(
                {"error": f"endpoint: there is no endpoint named {asked['endpoint']!r}"}, status=400
            )
        return web.json_response({"endpoint": "chat", "status": "no workers", "request_idx": 7})

    async def aliases(self, request: web.Request) -> web.Response:
        fallback = {"model": "external:other", "faults": ["no_worker"]}
        row = {"name": "best", "targets": [{"model": "chat", "weight": 1}], "fallbacks": [fallback], "wait_s": 0}
        return web.json_response([row])

    async def endpoints(self, request: web.Request) -> web.Response:
        return web.json_response([{"id": 1, "name": "chat", "created_at": 1}])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.asked.append(asked)
        self.heads.append(dict(request.headers))
        if self.status != 200:
            said = {"error": {"message": f"the key {SECRET} is out of money"}}
            return web.json_response(said, status=self.status, headers={"Retry-After": "7"})
        if not asked.get("stream"):
            return web.json_response({"choices": [], "usage": USAGE})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"so"}}]}\n\n')
        while self.hangs:
            await asyncio.sleep(0.02)
        await response.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n".encode())
        return response

    def spent(self) -> float:
        return json.loads((self.folder / "externals.toml.spent").read_text().splitlines()[0])["other"][1]  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def gateway(servers: Servers) -> AsyncIterator[str]:
    async with listening(servers.app(), servers.port):
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        settings = GatewaySettings(url=f"http://127.0.0.1:{servers.port}", listen_port=0, externals=str(servers.file))
        task = asyncio.create_task(run(settings, address.set_result))
        try:
            await until(lambda: address.done() or task.done())
            if task.done():
                task.result()
            yield f"{address.result()}/v1"
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    monkeypatch.setenv("OTHER_KEY", f"{SECRET}\n")
    return Servers(tmp_path)


async def post(url: str, path: str = "chat/completions", direct: str = "", **body: Any) -> tuple[int, str]:
    body = {"model": "best", "messages": [{"role": "user", "content": "hello"}], **body}
    headers = {"Authorization": "Bearer key", "Cookie": "a=b", "X-Own": "secret", "X-Posthouse-Direct": direct}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/{path}", json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


ONE = (1000 * 10 + 100 * 100) / 1e6  # what an answer comes to


async def test_where_no_worker_is_free_another_s_server_answers_and_what_was_used_is_spent(servers: Servers) -> None:
    async with gateway(servers) as url:
        status, text = await post(url, seed=7)
        assert (status, json.loads(text)["usage"]) == (200, USAGE)
        assert servers.spent() == pytest.approx(ONE)
        assert servers.asked[0]["model"] == "their-model"
        assert servers.asked[0]["seed"] == 7
        assert servers.asked[0]["max_completion_tokens"] == 200, "else nobody knows what it may come to"
        [head] = servers.heads
        assert head["Authorization"] == f"Bearer {SECRET}"
        assert not {"Cookie", "X-Own", "X-Posthouse-Auth"} & head.keys(), "what callers say to us is not for others"
        status, text = await post(url, stream=True, max_tokens=50)
        assert "[DONE]" in text
        assert "usage" not in text
        assert servers.asked[1]["max_tokens"] == 50
        assert "max_completion_tokens" not in servers.asked[1]
        assert servers.spent() == pytest.approx(2 * ONE)
        assert (await post(url, "embeddings", input="x"))[0] == 200
        status, text = await post(url, model="external:other")
        assert (status, "model_not_found" in text) == (404, True), "no caller may name it"
        status, text = await post(url, direct="1")
        assert (status, "takes no direct request" in text) == (503, True)
        assert len(servers.asked) == 3


async def test_a_cap_is_not_passed_by_what_runs_at_once(servers: Servers) -> None:
    servers.file.write_text(
        TABLE.format(port=servers.port, cap=0.05)
    )  # one may come to 0.02, and to 0.001 for its body
    servers.hangs = True
    async with gateway(servers) as url:
        running = [asyncio.create_task(post(url, stream=True)) for _ in range(5)]
        await until(lambda: sum(task.done() for task in running) == 3)
        refused = [task.result() for task in running if task.done()]
        assert all(status == 429 and '"insufficient_quota"' in text for status, text in refused), refused
        assert 0.04 < servers.spent() <= 0.05
        servers.hangs = False
        whole = [await task for task in running]
        assert sum("[DONE]" in text for _, text in whole) == 2
        assert servers.spent() == pytest.approx(2 * ONE)
        assert (await post(url))[0] == 429


async def test_who_leaves_early_has_spent_what_was_reserved(servers: Servers) -> None:
    servers.hangs = True
    async with gateway(servers) as url:
        task = asyncio.create_task(post(url, stream=True))
        await until(lambda: servers.asked)
        reserved = servers.spent()
        assert reserved > 200 * 100 / 1e6
        task.cancel()
        await asyncio.wait([task])
        servers.hangs = False
        await asyncio.sleep(0.1)
        assert servers.spent() == reserved


@pytest.mark.parametrize(("status", "told"), [(401, 502), (500, 502), (429, 429), (400, 400), (307, 502)])
async def test_what_the_other_refuses_costs_nothing_and_shows_no_key(servers: Servers, status: int, told: int) -> None:
    servers.status = status
    async with gateway(servers) as url:
        found, text = await post(url)
        assert found == told
        assert servers.spent() == 0
        assert (SECRET in text) == (status == 400)  # the caller's own fault is passed on as it is


def test_more_keys_than_are_told_apart_are_counted_together() -> None:
    row = spent.Spent("2026-01-01")
    for i in range(spent.MAX_KEYS + 5):
        row.add(f"ph_{i}", 0.5)
    row.add("ph_0", -0.7)
    assert (len(row.by_key), row.by_key[spent.OTHER], row.by_key["ph_0"]) == (spent.MAX_KEYS + 1, 2.5, 0.0)
    assert row.usd == 0.5 * (spent.MAX_KEYS + 5) - 0.7


def test_gateways_that_share_a_file_share_the_cap_and_a_new_day_begins_at_nothing(servers: Servers) -> None:
    async def both() -> None:
        day = "2026-01-01"
        one, two = (Externals(servers.file, today=lambda: day) for _ in range(2))
        external, key = one.known["other"]
        assert key == SECRET
        first = one._reserve("other", external, "ph_1", 0.6)
        with pytest.raises(Exception, match=r"may cost \$1 a day"):
            two._reserve("other", external, "ph_1", 0.6)
        first.end(Usage())
        first.end(Usage())
        second = two._reserve("other", external, "ph_1", 0.6)
        day = "2026-01-02"
        one._reserve("other", external, "ph_1", 0.9)
        second.end(Usage())  # of a day that is over
        assert servers.spent() == pytest.approx(0.9)
        found = spent.look(spent.file_of(servers.file))
        assert found == {"other": spent.Spent(day, 0.9, 1.0, {"ph_1": 0.9})}

    asyncio.run(both())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("max_usd_day = 1", "max_usd_day = -1"), r"\[other\]: .*max_usd_day"),
        (("max_usd_day = 1", ""), "max_usd_day"),
        (("http://127.0.0.1", "http://api.example.com"), "must begin with https://"),
        (("OTHER_KEY", "NO_SUCH"), "there is no key in NO_SUCH"),
        (('key_env = "OTHER_KEY"', ""), "one of both must say where the key is"),
        (("model =", "modle ="), "modle"),
        (("[other]", "[other"), "not TOML"),
    ],
)
def test_a_wrong_file_is_told_by_its_field_and_without_the_key(
    servers: Servers, change: tuple[str, str], words: str
) -> None:
    servers.file.write_text(TABLE.format(port=1, cap=1).replace(*change))

    async def read() -> None:
        with pytest.raises(BadRequest, match=words) as told:
            Externals(servers.file)
        assert SECRET not in str(told.value)

    asyncio.run(read())
