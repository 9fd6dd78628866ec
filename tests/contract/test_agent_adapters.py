"""Which adapters an agent finds in its model server's list of models."""

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from posthouse.agent.adapters import held_adapters
from posthouse.wire.status import MAX_ADAPTER, MAX_ADAPTERS
from tests.kit.agent_world import listening
from tests.kit.ports import free_port

BASE = {"id": "base", "object": "model", "owned_by": "vllm", "parent": None}


def held(*names: str, **more: Any) -> dict[str, Any]:
    return {"data": [BASE, *({**BASE, "id": name, "parent": "base", **more} for name in names)]}


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, held("sql", "legal", "sql"), ("legal", "sql")),
        (200, held("sql", owned_by="sglang"), ("base:sql",)),
        (200, held(), ()),
        (200, {"object": "list", "data": [{"id": "m"}]}, ()),
        (200, held(*(f"a{n:03}" for n in range(MAX_ADAPTERS + 5))), tuple(f"a{n:03}" for n in range(MAX_ADAPTERS))),
        (200, held("x" * MAX_ADAPTER, "x" * (MAX_ADAPTER + 1), "", "a\nb"), ("x" * MAX_ADAPTER,)),
        (200, {"data": [{"id": 7, "parent": "base"}]}, None),
        (200, [], None),
        (200, {"data": [], "x": "y" * 2**20}, None),
        (404, {}, None),
        (500, {}, ()),
        (307, {}, ()),
    ],
)
async def test_what_the_list_says(status: int, body: Any, found: tuple[str, ...] | None) -> None:
    async def models(_: web.Request) -> web.Response:
        return web.Response(status=status, text=json.dumps(body), headers={"Location": "/elsewhere"})

    app, port = web.Application(), free_port()
    app.add_routes([web.get("/v1/models", models)])
    async with listening(app, port), aiohttp.ClientSession() as session:
        assert await held_adapters(session, f"http://127.0.0.1:{port}") == found


async def test_a_model_server_that_is_away_holds_none_and_is_asked_again() -> None:
    async with aiohttp.ClientSession() as session:
        assert await held_adapters(session, f"http://127.0.0.1:{free_port()}") == ()
